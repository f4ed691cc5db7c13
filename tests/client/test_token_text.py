"""Tokens as text that JSON can carry."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reverie_client.token_text import to_bytes, to_text


@given(st.binary() | st.text().map(str.encode) | st.sampled_from([rb"bytes:\xc3", b"bytes:", rb"bytes:\xzz"]))
def test_every_token_is_text_and_comes_back(token):
    assert to_bytes(json.loads(json.dumps(to_text(token)))) == token


@pytest.mark.parametrize(
    ("token", "text"), [(b" caf", " caf"), ("é".encode(), "é"), (b"\xc3", r"bytes:\xc3"), (b"\xa9!", r"bytes:\xa9\x21")]
)
def test_a_part_of_a_character_is_written_as_its_bytes(token, text):
    assert to_text(token) == text
