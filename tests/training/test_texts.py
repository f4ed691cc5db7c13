"""Texts as people have them: other encodings, line ends, names, links."""

import codecs
import os
import tarfile

import pytest

from training.language_model import reviews, texts
from training.language_model.reviews import DataError, Reviews, read_reviews

SAID = "Déjà vu — “naïve” café\nНичего"  # noqa: RUF001
WESTERN = "Déjà vu – “naïve” café, ça coûte 5 €\nfin"  # noqa: RUF001


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (SAID.encode(), "utf-8"),
        (codecs.BOM_UTF8 + SAID.encode(), "utf-8"),
        (SAID.encode("utf-16"), "utf-16"),
        (codecs.BOM_UTF16_BE + SAID.encode("utf-16-be"), "utf-16"),
        (SAID.encode("utf-32"), "utf-32"),
        (codecs.BOM_UTF32_BE + SAID.encode("utf-32-be"), "utf-32"),
        (WESTERN.encode("cp1252"), "cp1252"),
        ("na\u0081ïve\nfin".encode("latin-1"), "latin-1"),
        ("plain words\nand more".encode("utf-16-le"), "utf-16-le"),
        ("plain words\nand more".encode("utf-16-be"), "utf-16-be"),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_text_is_read_as_it_was_written(data, encoding, line_end):
    codec = {"utf-16": "utf-16-be" if data[:2] == codecs.BOM_UTF16_BE else "utf-16-le"}.get(encoding, encoding)
    codec = {"utf-32": "utf-32-be" if data[:4] == codecs.BOM_UTF32_BE else "utf-32-le"}.get(codec, codec)
    written = data.replace("\n".encode(codec), line_end.encode(codec))
    text, found = texts.decode(written)
    assert found == encoding
    assert text == texts.decode(data)[0]
    assert "\r" not in text
    assert not text.startswith("\ufeff")
    assert text in (SAID, WESTERN, "na\u0081ïve\nfin", "plain words\nand more")


def test_whatever_is_in_a_folder_is_read_once_and_counted(tmp_path):
    folder, elsewhere = tmp_path / "texts", tmp_path / "elsewhere"
    (folder / "a folder.txt").mkdir(parents=True)
    elsewhere.mkdir()
    (folder / "a.TXT").write_bytes("über".encode("utf-16"))
    (folder / "b.txt").write_bytes("größe\r\n".encode("cp1252"))
    (folder / "c.Txt").write_text(" \n")
    (folder / "d.md").write_text("not a text")
    (elsewhere / "e.txt").write_text("linked")
    (folder / "link").symlink_to(elsewhere)
    (folder / "a folder.txt" / "loop").symlink_to(folder)
    summary = texts.Summary()
    assert sorted(read_reviews(folder, "train", summary)) == sorted(["über", "größe\n", "linked"])
    assert dict(summary.encodings) == {"utf-16": 1, "cp1252": 1, "utf-8": 1}
    assert (summary.empty, summary.characters) == (1, 4 + 6 + 6)
    assert "1 as cp1252" in str(summary)
    assert "1 empty ones left out" in str(summary)


def test_one_file_is_a_source_and_is_cut_into_parts_of_which_a_tenth_is_the_test_split(tmp_path):
    novel = tmp_path / "novel.txt"
    novel.write_text("".join(f"Line {i} of a long novel that goes on.\n" for i in range(2_000)))
    train, test = (list(read_reviews(novel, split)) for split in ("train", "test"))
    assert 8 < len(train) / len(test) < 10
    assert sum(map(len, train + test)) == novel.stat().st_size
    assert not set(train) & set(test)


@pytest.mark.parametrize("ending", [".txt", ".TXT"])
def test_a_rewritten_file_is_tokenized_anew_whatever_its_size_and_time(tmp_path, ending):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(8):
        (folder / f"{i}{ending}").write_text(f"the first words of text number {i}")
    first = Reviews.prepare(folder, "words", 100, 8, tmp_path / "cache")
    for path in folder.iterdir():
        stat = path.stat()
        path.write_text(path.read_text().replace("first", "other"))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = Reviews.prepare(folder, "words", 100, 8, tmp_path / "cache")
    words = [{data.tokenizer.token_bytes(i) for i in range(len(data.tokenizer))} for data in (first, second)]
    assert [b"first" in known or b" first" in known for known in words] == [True, False]
    assert second.info["digest"] != first.info["digest"]


def test_reading_says_what_was_read(tmp_path, capsys):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(8):
        (folder / f"{i}.txt").write_bytes(f"größe number {i}".encode("latin-1"))
    Reviews.prepare(folder, "words", 100, 8, tmp_path / "cache")
    said = capsys.readouterr().err
    assert "read 8 texts (8 as cp1252)" in said
    assert "tokens to train on" in said


@pytest.mark.parametrize("cut", [5, 60, 300])
@pytest.mark.parametrize("mode", ["gz", "xz", ""])
def test_an_archive_that_ends_early_is_named(tmp_path, mode, cut):
    (tmp_path / "review.txt").write_bytes(os.urandom(4000).hex().encode())
    whole = tmp_path / f"reviews.tar.{mode or 'plain'}"
    with tarfile.open(whole, f"w:{mode}") as archive:
        archive.add(tmp_path / "review.txt", "aclImdb/train/pos/0_9.txt")
    whole.write_bytes(whole.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"reviews\.tar"):
        list(read_reviews(whole, "train"))


def test_a_file_that_must_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", refused)
    with pytest.raises(DataError, match=r"a\.txt cannot be read: Permission denied"):
        list(read_reviews(tmp_path, "train"))


def test_one_text_is_too_few(tmp_path):
    (tmp_path / "a.txt").write_text("a text")
    with pytest.raises(DataError, match="1 texts to train on; at least 2"):
        Reviews.prepare(tmp_path, "words", 100, 8, tmp_path / "cache")


def test_samples_begin_with_the_words_of_the_texts_and_of_reviews_as_the_book_s(tmp_path):
    own, imdb = tmp_path / "own", tmp_path / "aclImdb" / "train" / "pos"
    own.mkdir()
    imdb.mkdir(parents=True)
    (own / "a.txt").write_text("Call me Ishmael. Some years ago")
    (imdb / "0_9.txt").write_text("A fine film")
    assert reviews.prompt_for(own) == "Call me"
    assert reviews.prompt_for(tmp_path / "aclImdb") == "This movie"
