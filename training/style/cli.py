"""Commands `reverie train painter|gallery`: a network that paints in any style, and many styles in one network.

TensorFlow is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Styles = Annotated[
    list[Path], typer.Option("--style", help="A painting; repeat for several. Its file name is its name.")
]
Content = Annotated[Path, typer.Option(help="Folder of photographs.")]
RunFolder = Annotated[Path, typer.Option("--run", help="Folder of the run; one that is not finished is resumed.")]
Features = Annotated[str, typer.Option(help="Extractor that measures the loss: vgg19, or the faster compact.")]
WeightsDir = Annotated[Path | None, typer.Option(help="Folder with VGG19's weights, if not in the Keras cache.")]


def train_painter(
    styles: Styles,
    paintings: Annotated[Path, typer.Option(help="Folder of the paintings to learn from.")],
    content: Content,
    source: Annotated[
        Path, typer.Option("--from", help="Start from the weights of this run, which has the --style's.")
    ],
    run: RunFolder,
    held_out: Annotated[list[str] | None, typer.Option(help="Name of a painting never to train on; repeat.")] = None,
    steps: Annotated[int, typer.Option(help="Batches to train for.")] = 3_500,
    size: Annotated[int, typer.Option(help="Side of the training crops in pixels.")] = 256,
    content_error: Annotated[list[float] | None, typer.Option(help="Of each --style; see train style.")] = None,
    content_weight: Annotated[float, typer.Option(help="Weight of the content error at the start.")] = 0.4,
    learning_rate: Annotated[float, typer.Option(help="Peak rate of Adam.")] = 1e-3,
    features: Features = "vgg19",
    cache: Annotated[Path, typer.Option(help="Where measures of paintings are kept.")] = Path("cache") / "paintings",
    sample_every: Annotated[int, typer.Option(help="Steps between samples.")] = 250,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 250,
    weights_dir: WeightsDir = None,
) -> None:
    """Train the style network on many paintings, with a predictor that knows the style of any other."""
    from training.cli import report, use_weights

    use_weights(weights_dir, needs_vgg19=features == "vgg19")
    from training.loop import Schedule
    from training.photos import Photos
    from training.runs import Run
    from training.style.many import PainterTraining, train
    from training.style.train import StyleTraining, named_paintings

    named = named_paintings(styles)
    config = PainterTraining(
        StyleTraining.from_dict(Run(source).config).changed(named).network,
        steps=steps,
        size=size,
        content_error=tuple(content_error or StyleTraining.content_error),
        content_weight=content_weight,
        learning_rate=learning_rate,
        features=features,
        held_out=tuple(held_out or ()),
    )
    schedule = Schedule(steps, sample_every=sample_every, checkpoint_every=checkpoint_every)
    paths = named_paintings(Photos.of(paintings).paths) | named
    report(train(config, paths, Photos.of(content, 2), run, schedule, cache, Run(source)))


def train_gallery(
    styles: Styles,
    content: Content,
    source: Annotated[Path, typer.Option("--from", help="A painter's run, which drafts the styles.")],
    run: RunFolder,
    seconds: Annotated[float, typer.Option(help="Time to learn each style.")] = 90.0,
    steps: Annotated[int, typer.Option(help="Steps to learn each style, if they take less time.")] = 2_000,
    photos: Annotated[int, typer.Option(min=1, help="Photographs that styles are tried on, evenly spaced.")] = 16,
    features: Features = "vgg19",
    weights_dir: WeightsDir = None,
) -> None:
    """Learn a style for each painting, and hang them in one network, ready for export."""
    from training.cli import report, use_weights

    use_weights(weights_dir, needs_vgg19=features == "vgg19")
    from imaging import images
    from synthesis.style.learn import LearnParameters
    from training.photos import Photos
    from training.runs import Run
    from training.style.gallery import hang
    from training.style.train import named_paintings, split

    kept = split(Photos.of(content, 2))[0].paths
    shown = [images.read(path) for path in kept[:: max(1, len(kept) // photos)][:photos]]
    parameters = LearnParameters(max_seconds=seconds, max_steps=steps, crops=2 * len(shown), features=features)
    report(hang(Run(source), named_paintings(styles), shown, parameters, run))
