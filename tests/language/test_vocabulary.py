import pytest
from hypothesis import given
from hypothesis import strategies as st

from language.vocabulary import END, UNKNOWN, Vocabulary, words_of

WORDS = ["", "[UNK]", "the", "movie", "was", "good"]


def test_words_are_lower_case_without_punctuation():
    assert words_of("The movie -- wasn't GOOD!<br>") == ["the", "movie", "wasnt", "goodbr"]


def test_unknown_words_become_one_id_and_known_words_their_line_number():
    assert Vocabulary(WORDS).encode("the zebra was good") == [2, UNKNOWN, 4, 5]


def test_decode_leaves_out_the_end_token():
    assert Vocabulary(WORDS).decode([2, 3, END, END]) == "the movie"


def test_most_frequent_words_are_kept_and_ties_are_alphabetical():
    assert Vocabulary.from_texts(["b b a c", "c d"], size=5).words == ["", "[UNK]", "b", "c", "a"]


@given(st.lists(st.sampled_from(WORDS[2:])))
def test_decode_inverts_encode_for_known_words(words):
    vocabulary = Vocabulary(WORDS)
    assert vocabulary.decode(vocabulary.encode(" ".join(words))) == " ".join(words)


def test_a_saved_vocabulary_loads_unchanged(tmp_path):
    Vocabulary(WORDS).save(tmp_path / "v.txt")
    assert Vocabulary.load(tmp_path / "v.txt") == Vocabulary(WORDS)


@pytest.mark.parametrize("words", [["the"], ["", "[UNK]", "a", "a"]])
def test_a_list_without_reserved_tokens_or_with_a_repeated_word_is_refused(words):
    with pytest.raises(ValueError, match="vocabulary"):
        Vocabulary(words)
