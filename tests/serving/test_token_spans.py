"""Tokens are handed out with their text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.text.token_spans import TokenSpans

TOKENS = st.lists(st.binary(max_size=4) | st.sampled_from([b"\xc3", b"\xa9", b"\xf0\x9f", b"\x8e\xac", b"ab", b"!"]))


@given(TOKENS, st.data())
def test_tokens_handed_out_are_the_text_that_was_shown_and_a_cut_one_is_the_rest_of_it(tokens, data):
    spans: TokenSpans[bytes] = TokenSpans()
    for token in tokens:
        spans.add(token, token)
    text = b"".join(tokens).decode("utf-8", "replace")
    first = data.draw(st.integers(0, len(text)))
    second = data.draw(st.integers(first, len(text)))
    whole = spans.show(first)
    assert len(b"".join(whole).decode("utf-8", "replace")) <= first
    whole += spans.show(second - first)
    cut = spans.cut()
    covered = b"".join(whole) + (cut[0][: cut[1]] if cut else b"")
    assert covered.decode("utf-8", "replace") == text[:second]


def test_a_token_that_adds_nothing_is_handed_out_with_the_one_before_or_at_the_end():
    spans: TokenSpans[str] = TokenSpans()
    spans.add("a", b"a")
    spans.add("end", b"")
    spans.add("half", b"\xc3")
    assert spans.show(1) == ["a", "end"]
    assert spans.rest() == ["half"]
