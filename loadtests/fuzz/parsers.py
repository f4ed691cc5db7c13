"""`make fuzz-parsers`: coverage-guided inputs for what reads strangers' bytes, with atheris (libFuzzer).

- `picture`: bytes to `imaging.images`, as `stylize` and the others read them;
- `parameters`: JSON to the parameters of every Python model;
- `prompt`: bytes to the shipped tokenizer.

Each runs in a process of its own. A finding is an exception other than `InputError`, 10 s for one input, or 2 GiB of
memory; the input stays in `out/fuzz-parsers/`. The last line of stdout is JSON; exit status 1 where there is a finding.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

LONGEST_BYTES = 1 << 16
SLOWEST_S, MOST_MIB = 10, 2048
_SEEDS = 200

Target = Callable[[bytes], None]


def picture() -> Target:
    """Measure and decode a file."""
    from imaging import images
    from reverie.errors import InputError

    def read(data: bytes) -> None:
        try:
            images.measure(data)
            images.decode_picture(data, longest=256)
        except InputError:
            pass

    return read


def parameters() -> Target:
    """Check a request's parameters for every model, as the models do."""
    from pydantic import ValidationError

    from reverie.errors import InputError
    from serving.style.parameters import StylizeParameters
    from serving.text.parameters import GenerateParameters
    from synthesis.deepdream import DeepDreamParameters
    from synthesis.gatys import GatysParameters

    models = (StylizeParameters, GenerateParameters, DeepDreamParameters, GatysParameters)

    def check(data: bytes) -> None:
        try:
            given = json.loads(data)
        except (ValueError, RecursionError):
            return
        for model in models:
            try:
                found = model.model_validate(given)
                if isinstance(found, StylizeParameters):
                    found.shares("a")
            except (ValidationError, InputError):
                pass

    return check


def prompt() -> Target:
    """Encode a text and read the tokens back."""
    from language.tokenizer import load_tokenizer
    from registry.repository import Repository
    from serving.triton.server import PROJECT

    shipped = Repository(PROJECT / "model_repository")
    tokenizer = load_tokenizer(shipped.folder("language_model", shipped.versions("language_model")[-1]))

    def encode(data: bytes) -> None:
        text = data.decode("utf-8", errors="ignore")
        for token in tokenizer.encode(text):
            tokenizer.token_bytes(token)

    return encode


TARGETS: dict[str, Callable[[], Target]] = {"picture": picture, "parameters": parameters, "prompt": prompt}


class TargetName(str, Enum):
    """The names of `TARGETS`."""

    picture = "picture"
    parameters = "parameters"
    prompt = "prompt"


def seeds(name: str, folder: Path) -> None:
    """Write the inputs that mutation begins with."""
    from loadtests.fuzz.pictures import picture as random_picture

    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(1)
    texts = [
        '{"style": "a", "strength": 0.5}',
        '{"styles": "a=1,b=2"}',
        '{"temperature": 0.7, "max_tokens": 5, "stop": ["."]}',
    ]
    texts += ['{"layers": "mixed4=1.0", "num_octave": 3}', '{"style_layers": "block1_conv1=1", "size": 128}']
    given = [random_picture(rng) for _ in range(_SEEDS)] if name == "picture" else [t.encode() for t in texts]
    for i, data in enumerate(given):
        (folder / f"{i:03d}").write_bytes(data[:LONGEST_BYTES])


def main(
    runs: Annotated[int, typer.Option(min=1, help="Try so many inputs on each target.")] = 20_000,
    only: Annotated[TargetName | None, typer.Option(help="Try this target alone.")] = None,
    inside: Annotated[TargetName | None, typer.Option(hidden=True)] = None,
) -> None:
    """Look for inputs that the readers of strangers' bytes neither take nor refuse, guided by coverage.

    Each target runs in a process of its own. The input of a finding stays in out/fuzz-parsers/.
    The last line of stdout is JSON. The exit status is 1 if there is a finding.
    """
    out = Path("out") / "fuzz-parsers"
    if inside:
        _fuzz_here(inside.value, runs, out)
    found = {}
    for name in [only.value] if only else list(TARGETS):
        seeds(name, out / name)
        began = time.monotonic()
        command = [sys.executable, "-m", "loadtests.fuzz.parsers", "--inside", name, "--runs", str(runs)]
        status = subprocess.run(command, stdout=sys.stderr).returncode
        found[name] = {"runs": runs, "finding": status != 0, "seconds": round(time.monotonic() - began, 1)}
    findings = sum(target["finding"] for target in found.values())
    typer.echo(json.dumps({"parser_runs": runs * len(found), "findings": findings, "targets": found}))
    raise typer.Exit(1 if findings else 0)


def _fuzz_here(name: str, runs: int, out: Path) -> None:
    """Does not return: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(
        include=["PIL", "language", "serving", "imaging.images", "synthesis.layer_weights"]
    ):
        target = TARGETS[name]()
    limits = [
        f"-runs={runs}",
        f"-max_len={LONGEST_BYTES}",
        f"-timeout={SLOWEST_S}",
        f"-rss_limit_mb={MOST_MIB}",
        "-len_control=0",
    ]
    atheris.Setup(
        [sys.argv[0], str(out / name), *limits, f"-artifact_prefix={out}/{name}-", "-print_final_stats=0"], target
    )
    atheris.Fuzz()


if __name__ == "__main__":
    typer.run(main)
