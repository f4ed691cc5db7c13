"""What does copying a teacher buy a style network before it learns by itself? One network, three starts.

    make bench-distillation STYLES="a.jpg b.jpg" CONTENT=photos/ WEIGHTS=folder TEACHER=runs/style/shipped

Every network starts from the same random weights and takes the same number of steps: all with the perceptual loss, or a
part of them copying first, pairs that Gatys' optimization makes (the book's description) or a trained network. Judged by
the loss on held-out photographs that every training ends with (`training.style.loss`): the style error and the weighted
content error. Copying steps need no VGG19, so `seconds` differ; those of making the pairs are apart.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.timing import say
from training.loop import Schedule
from training.photos import Photos
from training.style import train
from training.style.network import StyleNetworkConfig


@dataclass(frozen=True)
class Start:
    """How the first steps are spent: `pairs` to copy, or the network of `teacher`, or neither."""

    name: str
    pairs: int = 0
    teacher: Path | None = None


def main() -> None:
    """Train and judge every network, and print one JSON line."""
    options = _arguments()
    paintings = {path.stem: path for path in options.style}
    config = train.StyleTraining(
        StyleNetworkConfig(tuple(paintings)), options.steps, size=options.size, precision=options.precision
    )
    starts = [
        Start("loss"),
        Start("pairs", pairs=options.pairs),
        Start("network", teacher=options.teacher),
    ]
    result: dict[str, Any] = {"cores": os.cpu_count(), "size": options.size, "steps": options.steps}
    result |= {"copied_steps": options.copied_steps, "pairs_made": options.pairs}
    for start in starts:
        result[start.name] = learn(start, config, paintings, options)
    for name in ("pairs", "network"):
        gained = result["loss"]["held_out_loss"] - result[name]["held_out_loss"]
        result[f"gain_of_{name}"] = round(gained, 3)
    print(json.dumps(result))


def learn(
    start: Start, config: train.StyleTraining, paintings: dict[str, Path], options: argparse.Namespace
) -> dict[str, float]:
    """Train a network, and what came of it; the run stays in `options.out`."""
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--style", type=Path, action="append", required=True, help="a painting; repeat for several")
    parser.add_argument("--content", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--teacher", type=Path, required=True, help="a finished style run with the same styles")
    parser.add_argument("--steps", type=int, default=800, help="batches that every network trains for")
    parser.add_argument("--copied-steps", type=int, default=300, help="how many of them copy, where a network copies")
    parser.add_argument("--pairs", type=int, default=60, help="transfers to make")
    parser.add_argument("--size", type=int, default=192, help="side of the crops in pixels")
    parser.add_argument("--precision", default="mixed_bfloat16", help="float32 where the processor has no bfloat16")
    parser.add_argument("--out", type=Path, default=Path("out/distillation"), help="folder of the runs and pairs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
