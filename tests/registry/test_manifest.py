from pathlib import Path

import pytest

from registry import manifest, publishing, table
from registry.manifest import ManifestError
from registry.repository import Repository
from tests.export import tiny

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def version(tmp_path) -> Path:
    """The folder of a published version."""
    (tmp_path / "models").mkdir()
    repository = Repository(tmp_path / "models")
    return repository.folder("style", publishing.publish(tiny.stage(repository), repository).version)


def test_the_shipped_versions_are_whole():
    found = list(table.verify(PROJECT / "model_repository"))
    assert {name for name, *_ in found} == {"language_model", "style"}
    assert [fault for *_, fault in found if fault] == []


@pytest.mark.parametrize("name", ["model.onnx", "styles.json", "recorded.npz", "manifest.json"])
def test_a_flipped_byte_is_found_wherever_it_is(version, name):
    manifest.verify(version)
    content = (version / name).read_bytes()
    for at in {0, len(content) // 2, len(content) - 1}:
        (version / name).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(ManifestError, match=r"altered|not a manifest"):
            manifest.verify(version)


def test_a_missing_and_an_added_file_are_both_named(version):
    (version / "styles.json").unlink()
    (version / "notes.txt").write_text("")
    with pytest.raises(ManifestError, match=r"notes\.txt was added; styles\.json is missing"):
        manifest.verify(version)


def test_a_manifest_says_where_a_version_came_from(version):
    found = manifest.read(version)
    assert (found.model, found.run, found.opset, found.graph) == ("style", "tiny", 18, "style_1")
    assert found.configuration == {"styles": ["starry_night"]}
    assert set(found.files) == {"model.onnx", "styles.json", "recorded.npz"}


def test_a_version_without_a_manifest_can_be_adopted_once(version):
    (version / "manifest.json").unlink()
    with pytest.raises(ManifestError, match="reverie models adopt"):
        manifest.verify(version)
    table.adopt(version, "style")
    manifest.verify(version)
    with pytest.raises(ManifestError, match="has a manifest"):
        table.adopt(version, "style")


def test_the_table_shows_labels_and_numbers_without_a_server(version):
    shown = table.table(version.parents[1], None)
    cells = [next(iter(column.cells)) for column in shown.columns]
    assert cells[:3] == ["style", "1", "stable"]
    assert "run tiny" in cells[4]
    assert "held_out_loss 1" in cells[4]


def test_the_data_s_hash_is_the_one_that_the_run_recorded(version, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"data_sha256": "abc"}')
    assert manifest.describe(version, "style", run, {}, {}, {}, {}).data_sha256 == "abc"
    (run / "config.json").write_text("{}")
    assert manifest.describe(version, "style", run, {}, {}, {}, {}).data_sha256 is None
