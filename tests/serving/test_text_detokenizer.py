"""Text in pieces: whole characters, and nothing of a stop string."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from serving.text.detokenizer import IncrementalDetokenizer, StopString


def shown(data: bytes, cuts: list[int], stops: list[str]) -> list[str]:
    """The pieces that `data`, cut at `cuts`, is shown in."""
    pieces = IncrementalDetokenizer(stops)
    borders = [0, *sorted({c % (len(data) + 1) for c in cuts}), len(data)]
    parts = [data[a:b] for a, b in pairwise(borders)]
    return [*(pieces.add(part) for part in parts), pieces.add(b"", last=True)]


@given(st.text(), st.lists(st.integers(0, 1000)))
def test_pieces_of_any_text_add_up_to_it(text, cuts):
    assert "".join(shown(text.encode(), cuts, [])) == text


@given(
    st.text("ab\u00e9", max_size=30),
    st.lists(st.integers(0, 1000)),
    st.lists(st.text("ab\u00e9", min_size=1, max_size=4), max_size=3),
)
def test_text_ends_before_the_first_stop_string_however_it_is_cut(text, cuts, stops):
    pieces = "".join(shown(text.encode(), cuts, stops))
    # Where two stop strings overlap, the one that is complete first ends the text, and of those the longest.
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert pieces == (text[: min(found)[1]] if found else text)


def test_long_stop_strings_cost_a_character_no_more_than_short_ones():
    text = "a" * 20_000
    compared = 0

    class Character(str):
        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        def __ne__(self, other):
            return not self == other

        __hash__ = str.__hash__

    stop = StopString("a" * 999 + "b")
    assert not any(stop.takes(Character(character)) for character in text)
    assert compared <= 3 * len(text)


def test_half_a_character_waits_for_its_other_half():
    pieces = IncrementalDetokenizer()
    data = "\U0001f600".encode()
    assert [pieces.add(data[i : i + 1]) for i in range(4)] == ["", "", "", "\U0001f600"]


def test_what_may_begin_a_stop_string_is_held_back_and_released():
    pieces = IncrementalDetokenizer(["END"])
    assert pieces.add(b"the E") == "the "
    assert pieces.add(b"Nough") == "ENough"
    assert pieces.add(b" EN") == " "
    assert pieces.add(b"", last=True) == "EN"
    assert not pieces.stopped
