"""What does copying a teacher buy a style network before it learns by itself? One network, three starts.

    make bench-distillation STYLES="a.jpg b.jpg" CONTENT=photos/ WEIGHTS=folder TEACHER=runs/style/shipped

Every network starts from the same random weights and takes the same number of steps: all with the perceptual loss, or a
part of them copying first, pairs that Gatys' optimization makes (the book's description) or a trained network. Judged by
the loss on held-out photographs that every training ends with (`synthesis.style.loss`): the style error and the weighted
content error. Copying steps need no VGG19, so `seconds` differ; those of making the pairs are apart.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.timing import say
from synthesis.style.network import StyleNetworkConfig
from training.loop import Schedule
from training.photos import Photos
from training.style import train


@dataclass(frozen=True)
class Start:
    """How the first steps are spent: `pairs` to copy, or the network of `teacher`, or neither."""

    name: str
    pairs: int = 0
    teacher: Path | None = None


@dataclass(frozen=True)
class TrainingOptions:
    """What all networks are trained with.

    Attributes:
        content: folder of photographs.
        copied_steps: how many steps copy, where a network copies.
        out: folder of the runs and pairs.
    """

    content: Path
    copied_steps: int
    out: Path


def main(
    style: Annotated[list[Path], typer.Option(help="A painting; repeat for several.")],
    content: Annotated[Path, typer.Option(help="Folder of photographs.")],
    teacher: Annotated[Path, typer.Option(help="A finished style run with the same styles.")],
    steps: Annotated[int, typer.Option(help="Batches that every network trains for.")] = 800,
    copied_steps: Annotated[int, typer.Option(help="How many of them copy, where a network copies.")] = 300,
    pairs: Annotated[int, typer.Option(help="Transfers to make.")] = 60,
    size: Annotated[int, typer.Option(help="Side of the crops in pixels.")] = 192,
    precision: Annotated[str, typer.Option(help="float32 where the processor has no bfloat16.")] = "mixed_bfloat16",
    out: Annotated[Path, typer.Option(help="Folder of the runs and pairs.")] = Path("out/distillation"),
) -> None:
    """Train and judge every network, and print one JSON line."""
    options = TrainingOptions(content, copied_steps, out)
    paintings = {path.stem: path for path in style}
    config = train.StyleTraining(StyleNetworkConfig(tuple(paintings)), steps, size=size, precision=precision)
    starts = [
        Start("loss"),
        Start("pairs", pairs=pairs),
        Start("network", teacher=teacher),
    ]
    result: dict[str, Any] = {"cores": os.cpu_count(), "size": size, "steps": steps}
    result |= {"copied_steps": copied_steps, "pairs_made": pairs}
    for start in starts:
        result[start.name] = learn(start, config, paintings, options)
    for name in ("pairs", "network"):
        gained = result["loss"]["held_out_loss"] - result[name]["held_out_loss"]
        result[f"gain_of_{name}"] = round(gained, 3)
    print(json.dumps(result))


def learn(
    start: Start, config: train.StyleTraining, paintings: dict[str, Path], options: TrainingOptions
) -> dict[str, float]:
    """Train a network and return its figures; the run stays in `options.out`."""
    photos, path = Photos.of(options.content, minimum=2), options.out / start.name
    shutil.rmtree(path, ignore_errors=True)
    copies = bool(start.pairs or start.teacher)
    config = replace(config, distilled_steps=options.copied_steps if copies else 0)
    began = time.perf_counter()
    teacher = train.teacher_of(config, paintings, photos, start.teacher, start.pairs, options.out / "made", _told)
    made = time.perf_counter()
    say(f"{start.name}: {config.steps} steps")
    run = train.train(config, paintings, photos, path, Schedule(config.steps, sample_every=config.steps), teacher)
    done = time.perf_counter()
    return {
        "held_out_loss": round(run.result["held_out_loss"], 3),
        "seconds": round(done - made),
        "seconds_of_teacher": round(made - began),
    }


def _told(made: int) -> None:
    if made % 10 == 0:
        say(f"{made} pairs")


if __name__ == "__main__":
    typer.run(main)
