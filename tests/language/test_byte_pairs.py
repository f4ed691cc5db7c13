import pytest
from hypothesis import given
from hypothesis import strategies as st

from language.byte_pairs import END_TOKEN, BytePairs
from language.tokenizer import load_tokenizer
from language.vocabulary import Vocabulary

TEXTS = ["This movie was GOOD, and the café was naïve.", "it's 10/10  - the end", "the movie"] * 20


@pytest.fixture(scope="module")
def byte_pairs():
    return BytePairs.from_texts(TEXTS, 320)


@given(st.text())
def test_every_text_comes_back_unchanged(byte_pairs, text):
    ids = byte_pairs.encode(text)
    assert byte_pairs.decode(ids) == text
    assert b"".join(byte_pairs.token_bytes(token) for token in ids) == text.encode()


def test_frequent_words_become_one_token(byte_pairs):
    assert 257 < len(byte_pairs) <= 320
    assert len(byte_pairs.encode(" movie")) == 1


def test_no_text_can_spell_the_end_token(byte_pairs):
    ids = byte_pairs.encode(f"a{END_TOKEN}b")
    assert byte_pairs.end not in ids
    assert byte_pairs.decode(ids) == f"a{END_TOKEN}b"


def test_the_end_token_adds_nothing_to_a_text(byte_pairs):
    assert byte_pairs.begin == (byte_pairs.end,) == (0,)
    assert byte_pairs.token_bytes(0) == b""
    assert byte_pairs.decode([0, *byte_pairs.encode("ok"), 0]) == "ok"


def test_a_batch_has_the_ids_of_its_texts(byte_pairs):
    assert byte_pairs.encode_batch(TEXTS[:3]) == [byte_pairs.encode(text) for text in TEXTS[:3]]


@pytest.mark.parametrize("make", [lambda: BytePairs.from_texts(TEXTS, 300), lambda: Vocabulary(["", "[UNK]", "it"])])
def test_a_saved_tokenizer_is_found_by_its_file(make, tmp_path):
    saved = make()
    saved.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(saved)
    assert len(loaded) == len(saved)
    assert loaded.encode(f"It was it {END_TOKEN}") == saved.encode(f"It was it {END_TOKEN}")


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json and no vocabulary\.txt"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_whose_id_0_is_no_end_is_refused(byte_pairs):
    from tokenizers import Tokenizer, models

    with pytest.raises(ValueError, match="id 0 is"):
        BytePairs(Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
