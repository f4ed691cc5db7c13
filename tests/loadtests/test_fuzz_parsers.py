import pytest

from loadtests.fuzz import parsers


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", parsers.TARGETS)
def test_what_mutation_begins_with_and_its_pieces_are_read_or_refused(name, tmp_path):
    parsers.seeds(name, tmp_path)
    target = parsers.TARGETS[name]()
    files = sorted(tmp_path.iterdir())
    assert files
    for file in files:
        data = file.read_bytes()
        for end in (len(data), len(data) // 2, 1, 0):
            target(data[:end])


def test_each_target_can_be_named_on_the_command_line():
    assert [name.value for name in parsers.TargetName] == list(parsers.TARGETS)


def test_another_error_than_a_refusal_is_a_finding(monkeypatch):
    monkeypatch.setattr("imaging.images.measure", lambda data: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        parsers.picture()(b"a")
