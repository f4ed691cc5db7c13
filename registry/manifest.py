"""`manifest.json` beside every version: where it came from, what it was measured at, and the hash of every file.

Written before a version is published; whoever holds a version can tell later whether a byte of it changed.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
from pydantic import TypeAdapter, ValidationError

from reverie.errors import ToolkitError

FILE = "manifest.json"
_TOOLS = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "numpy")
_PROJECT = Path(__file__).resolve().parents[1]
_DATA_FILES = ("held_out.npy", "vocabulary.txt", "tokenizer.json")
"""Files of a run that are cut from its data; where they are, their hash tells one data set from another."""


class ManifestError(ToolkitError):
    """A version is not what its manifest says, or has none; the message names every file at fault."""


@dataclass(frozen=True)
class Manifest:
    """What is known of a version.

    Attributes:
        run: name of the training run.
        exported: time, UTC; of a version adopted later, the time of that.
        data_sha256: as the run recorded it, else of what it keeps of its data; None where it keeps nothing.
        git_revision: of this project; with "+changes" where files differed from it, None outside a checkout.
        tools: versions of the packages that made the files.
        opset: of `model.onnx`.
        graph: its name: the model's, and a hash of the weights.
        precision: what the weights are stored in, and the precisions that are served, under the key `variants`.
        parity: largest and mean difference to Keras, the unit, the number of inputs.
        result: what the training run reached.
        measured: what else the export measured (perplexity in each precision).
        configuration: arguments of the model's description in `registry.configuration`.
        files: SHA-256 by name, of all files but this one.
    """

    model: str
    run: str
    exported: str
    data_sha256: str | None
    git_revision: str | None
    tools: Mapping[str, str]
    opset: int
    graph: str
    precision: Mapping[str, Any]
    parity: Mapping[str, Any]
    result: Mapping[str, Any]
    measured: Mapping[str, Any]
    configuration: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`; it holds a hash of itself too."""
        (folder / FILE).write_text(_with_checksum(asdict(self)))


_MANIFEST = TypeAdapter(Manifest)


def describe(
    folder: Path,
    model: str,
    run: Path | str,
    parity: Mapping[str, Any],
    result: Mapping[str, Any],
    measured: Mapping[str, Any],
    configuration: Mapping[str, Any],
    revision: str | None = "now",
) -> Manifest:
    """The manifest of the files that are now in `folder`.

    Args:
        revision: of the code that made them; "now" for the one that runs, None where it is not known.
    """
    graph = onnx.load(folder / "model.onnx", load_external_data=False)
    return Manifest(
        model=model,
        run=Path(run).name,
        exported=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        data_sha256=_data_hash(Path(run)),
        git_revision=git_revision() if revision == "now" else revision,
        tools={name: metadata.version(name) for name in _TOOLS if _installed(name)} if revision else {},
        opset=next((o.version for o in graph.opset_import if o.domain in ("", "ai.onnx")), 0),
        graph=graph.graph.name,
        precision=_precision(folder, graph),
        parity=parity,
        result=result,
        measured=measured,
        configuration=configuration,
        files=hashes(folder),
    )


def read(folder: Path) -> Manifest:
    """The manifest of a version.

    Raises:
        ManifestError: it is missing, is no manifest, or was altered.
    """
    try:
        text = (folder / FILE).read_text()
        content = json.loads(text)
        content.pop("sha256", None)
        found = _MANIFEST.validate_python(content)
    except FileNotFoundError:
        raise ManifestError(
            f"{folder} has no {FILE}; write one with its checksums with 'reverie models adopt'"
        ) from None
    except (ValueError, AttributeError, ValidationError) as error:
        raise ManifestError(f"{folder / FILE} is not a manifest: {str(error).splitlines()[0]}") from None
    if text != _with_checksum(content):
        raise ManifestError(f"{folder / FILE} was altered: its own hash is not that of its contents")
    return found


def verify(folder: Path) -> Manifest:
    """Compare every file of a version with its manifest.

    Raises:
        ManifestError: a file was altered, is missing, or was added.
    """
    found, now = read(folder), hashes(folder)
    faults = [
        *(f"{name} was altered" for name in found.files.keys() & now.keys() if found.files[name] != now[name]),
        *(f"{name} is missing" for name in found.files.keys() - now.keys()),
        *(f"{name} was added" for name in now.keys() - found.files.keys()),
    ]
    if faults:
        raise ManifestError(f"{folder}: {'; '.join(sorted(faults))}")
    return found


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by relative path; of the manifest itself none."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != FILE)
    return {p.relative_to(folder).as_posix(): _sha256(p) for p in files}


def git_revision() -> str | None:
    """The commit of this project, "+changes" if tracked files differ from it; None outside a checkout."""
    revision = _git("rev-parse", "HEAD")
    if revision is None:
        return None
    return f"{revision}+changes" if _git("status", "--porcelain", "--untracked-files=no") else revision


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(_PROJECT), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _data_hash(run: Path) -> str | None:
    config = run / "config.json"
    if config.is_file() and (recorded := json.loads(config.read_text()).get("data_sha256")):
        return recorded
    files = [run / name for name in _DATA_FILES if (run / name).is_file()]
    return hashlib.sha256("".join(_sha256(p) for p in files).encode()).hexdigest() if files else None


def _precision(folder: Path, model: onnx.ModelProto) -> dict[str, Any]:
    """Weights are stored in what most of them are in; it is served in those that `folder` has graphs for."""
    elements_in: dict[str, int] = {}
    for tensor in model.graph.initializer:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
        elements_in[kind] = elements_in.get(kind, 0) + math.prod(tensor.dims)
    computes_in = "int8" if any(node.op_type == "QuantizeLinear" for node in model.graph.node) else "float32"
    decoding = {p.stem.removeprefix("decode_") for p in folder.glob("decode_*.onnx")}
    others = {p.stem.removeprefix("model_") for p in folder.glob("model_*.onnx")}
    return {
        "weights": max(elements_in, key=lambda k: elements_in[k], default="none"),
        "variants": sorted(decoding or {computes_in, *others}),
    }


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _with_checksum(content: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=2) + "\n"
