"""Outputs are whole or as they were, whatever names lead to them, and are looked at before the work."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from reverie import outputs
from reverie.outputs import OutputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Interrupted(BaseException):
    """As Ctrl-C is: no Exception."""


def test_a_file_is_replaced_when_it_is_whole_and_else_left_as_it_was(tmp_path):
    target = tmp_path / "a.png"
    target.write_text("old")
    with outputs.replacing(target) as unfinished:
        unfinished.write_text("new")
        assert target.read_text() == "old"
        assert sorted(tmp_path.glob("*.png")) == [target]
    assert target.read_text() == "new"
    for failure in (ValueError, Interrupted):
        with pytest.raises(failure), outputs.replacing(target) as unfinished:
            unfinished.write_text("a part")
            raise failure
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.png"]


def test_a_replaced_file_keeps_its_mode_and_a_new_one_has_the_usual_one(tmp_path):
    (tmp_path / "usual").touch()
    (tmp_path / "private").touch(mode=0o600)
    for name in ("new", "private"):
        outputs.write(tmp_path / name, "words")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "usual", "private")]
    assert modes == [modes[1], modes[1], 0o600]


def test_a_link_stays_a_link_and_the_file_behind_it_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file.txt")
    for words in ("first", "second"):  # At first it leads nowhere.
        outputs.write(tmp_path / "link", words)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "there" / "file.txt").read_text() == words
    assert names(tmp_path / "there") == ["file.txt"]


def test_a_device_or_pipe_is_written_as_it_is(tmp_path):
    outputs.write(Path(os.devnull), "words")
    assert Path(os.devnull).is_char_device()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    outputs.write(pipe, "words")
    assert os.read(reader, 100) == b"words"
    os.close(reader)


def test_an_output_that_is_an_input_under_any_name_is_refused(tmp_path, monkeypatch):
    source = tmp_path / "in.mp4"
    source.write_text("film")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.mp4").symlink_to(source)
    os.link(source, tmp_path / "hard.mp4")
    monkeypatch.chdir(tmp_path)
    for name in ("in.mp4", "./in.mp4", "folder/../in.mp4", "link.mp4", "hard.mp4", source):
        with pytest.raises(OutputError, match=r"in\.mp4, which is read; give the result another name"):
            outputs.check(Path(name), [source])
    with pytest.raises(OutputError, match="is read"):
        outputs.check_folder(Path("folder/../folder"), inputs=[tmp_path / "folder"])
    outputs.check(Path("out.mp4"), [source])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent/a.png", "there is no folder .*absent; make it first"),
        ("folder", "is a folder; give the name of a file"),
        ("file/a.png", "there is no folder"),
        ("x" * 300, "cannot be written .*[Nn]ame too long"),
        ("/proc/self/a.png", "cannot be written"),
        ("protected", "write-protected"),
    ],
)
def test_an_output_that_cannot_be_written_is_found_without_writing(tmp_path, monkeypatch, name, reason):
    (tmp_path / "folder").mkdir()
    for file in ("file", "protected"):
        (tmp_path / file).write_text("old")
    # Root may write everything, so file modes alone would show nothing.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "protected")
    before = names(tmp_path)
    with pytest.raises(OutputError, match=reason):
        outputs.check(tmp_path / name)
    assert names(tmp_path) == before


def test_two_outputs_in_one_file_are_refused(tmp_path):
    (tmp_path / "link.png").symlink_to("a.png")
    with pytest.raises(OutputError, match="the same file; give two names"):
        outputs.check_apart([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "link.png"])


def test_a_folder_gets_all_its_files_at_the_end_or_none_and_nothing_is_left(tmp_path):
    target = tmp_path / "deep" / "out"
    with pytest.raises(Interrupted), outputs.replacing_folder(target) as unfinished:
        (unfinished / "1.png").write_text("new")
        raise Interrupted
    assert names(tmp_path) == []
    with outputs.replacing_folder(target) as unfinished:
        (unfinished / "1.png").write_text("first")
    (target / "notes.txt").write_text("mine")
    with pytest.raises(Interrupted), outputs.replacing_folder(target) as unfinished:
        (unfinished / "1.png").write_text("a part")
        raise Interrupted
    assert (target / "1.png").read_text() == "first"
    with outputs.replacing_folder(target) as unfinished:
        (unfinished / "1.png").write_text("second")
    assert (target / "1.png").read_text() == "second"
    assert names(target) == ["1.png", "notes.txt"]


def test_a_folder_that_cannot_be_written_is_found_without_writing(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "out" / "1.png").mkdir(parents=True)
    for folder, reason in (("file", "is a file"), ("file/sub", "cannot be written"), ("out", r"1\.png is a folder")):
        with pytest.raises(OutputError, match=reason):
            outputs.check_folder(tmp_path / folder, ["1.png"])
    with pytest.raises(OutputError, match="cannot be written"):
        outputs.check_folder(Path("/proc/self/out"))
    outputs.check_folder(tmp_path / "new" / "deep")
    assert names(tmp_path) == ["file", "out"]
