import pytest
from hypothesis import given
from hypothesis import strategies as st
from reverie_client.labels import Labels

NAMES = st.text(st.characters(categories=["Ll"], max_codepoint=127), min_size=1, max_size=8)


@given(st.dictionaries(NAMES, st.integers(1, 10**6)), st.integers(0, 100))
def test_labels_come_back_from_their_parameters(versions, percent):
    labels = Labels(versions, percent)
    assert Labels.of_parameters({"slots": "3", **labels.parameters()}) == labels


def test_a_canary_gets_its_share_and_the_stable_version_the_rest():
    labels = Labels({"stable": 1}).with_split(2, 10)
    drawn = [labels.sample_version(i / 1000) for i in range(1000)]
    assert drawn.count(2) == 100
    assert drawn.count(1) == 900
    assert {labels.without_label("canary").sample_version(i / 100) for i in range(100)} == {1}


def test_a_promoted_canary_is_a_canary_no_more():
    labels = Labels({"stable": 1}).with_split(2, 10).with_label("stable", 2)
    assert labels == Labels({"stable": 2, "previous": 1})


def test_an_older_version_made_stable_leaves_no_newer_one_as_previous():
    assert Labels({"stable": 3, "previous": 2}).with_label("stable", 1) == Labels({"stable": 1})


def test_naming_the_stable_version_stable_again_changes_nothing():
    labels = Labels({"stable": 3, "previous": 2})
    assert labels.with_label("stable", 3) == labels


def test_without_labels_nothing_is_drawn():
    assert Labels().sample_version(0.0) is None


def test_a_share_outside_of_a_hundred_percent_is_refused():
    with pytest.raises(ValueError, match="percent: 101; accepted: 0 to 100"):
        Labels({}, 101)
