from hypothesis import given
from hypothesis import strategies as st

from language.windows import context_windows

positions_and_stride = st.integers(1, 40).flatmap(lambda p: st.tuples(st.just(p), st.integers(1, p)))


@given(st.integers(0, 300), positions_and_stride)
def test_every_token_but_the_first_is_scored_once(length, sizes):
    scored = [token for window in context_windows(length, *sizes) for token in range(window.first, window.end)]
    assert scored == list(range(1, length))


@given(st.integers(0, 300), positions_and_stride)
def test_no_window_is_longer_than_the_context_and_one_and_each_sees_what_its_stride_leaves(length, sizes):
    positions, stride = sizes
    for window in context_windows(length, positions, stride):
        assert window.end - window.start <= positions + 1
        assert window.first - window.start == (positions + 1 - stride if window.start else 1) or window.start == 0


def test_half_of_the_context_is_seen_before_what_a_window_scores():
    assert list(context_windows(12, 4, 2)) == [(0, 5, 1), (2, 7, 5), (4, 9, 7), (6, 11, 9), (8, 12, 11)]
