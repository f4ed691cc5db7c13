"""Commands `reverie train lm|style|features` and `reverie eval lm`.

TensorFlow is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

train_app = typer.Typer(
    no_args_is_help=True, help="Train a model; a run that was stopped goes on with the same command and --run."
)

eval_app = typer.Typer(no_args_is_help=True, help="Measure a trained model; the last line of the output is JSON.")

RunOption = Annotated[
    Path | None,
    typer.Option("--run", help="Folder of the run; an unfinished one is resumed. Default: a new one under runs/."),
]
Content = Annotated[Path | None, typer.Option(help="Folder of photographs. Default: download COCO's validation set.")]
Precision = Annotated[str, typer.Option(help="float32, or mixed_bfloat16 where the processor or GPU has bf16.")]
Seed = Annotated[int, typer.Option(help="Of the initial weights, the order of the data and the samples.")]
WeightsDir = Annotated[
    Path | None, typer.Option(help="Folder with VGG19's ImageNet weights, if not in the Keras cache.")
]
SampleEvery = Annotated[int, typer.Option(help="Steps between samples.")]
CheckpointEvery = Annotated[int, typer.Option(help="Steps between checkpoints.")]


@train_app.command("lm")
def train_lm(
    data: Annotated[
        Path | None,
        typer.Option(help="aclImdb archive, its folder, or a folder of .txt files. Default: download IMDB."),
    ] = None,
    preset: Annotated[str, typer.Option(help="book (listing 12-6) or reviews; the options below change it.")] = "book",
    run: RunOption = None,
    steps: Annotated[int | None, typer.Option(help="Batches to train for.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows of one context each in a batch.")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="rmsprop (constant rate), adamw or muon (warm-up, cosine, clipping).")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Constant rate of rmsprop, peak of the others.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Share of activations dropped.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, or mixed_bfloat16 where there is bf16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the weights, the order of the data and the samples.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What the samples continue.")] = None,
    strategy: Annotated[
        str, typer.Option(help="none, mirrored (all GPUs of this machine) or multiworker (processes of TF_CONFIG).")
    ] = "none",
    jit_compile: Annotated[
        bool, typer.Option("--jit-compile/--no-jit-compile", help="Compile the step with XLA: faster on a GPU.")
    ] = False,
    sample_every: Annotated[int | None, typer.Option(help="Steps between samples. Default: each epoch.")] = None,
    checkpoint_every: CheckpointEvery = 300,
    validate_every: Annotated[int, typer.Option(help="Steps between validations.")] = 300,
    cache: Annotated[Path, typer.Option(help="Where the tokenised reviews are kept.")] = Path("cache"),
) -> None:
    """Train a Transformer language model on movie reviews."""
    from training.distribution import Distribution
    from training.language_model import presets, reviews
    from training.language_model.train import train
    from training.loop import Schedule

    if preset not in presets.PRESETS:
        raise typer.BadParameter(f"{preset!r}; accepted: {', '.join(presets.PRESETS)}", param_hint="--preset")
    distribution = Distribution.of(strategy)  # before anything else uses TensorFlow
    config = presets.adjusted(
        presets.PRESETS[preset](),
        dropout=dropout,
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        precision=precision,
        seed=seed,
        prompt=prompt,
    )
    schedule = Schedule(
        config.steps, sample_every=sample_every, checkpoint_every=checkpoint_every, validate_every=validate_every
    )
    _report(train(config, data or reviews.download(), cache, run, schedule, distribution, jit_compile))


@eval_app.command("lm")
def eval_lm(
    data: Annotated[
        Path | None,
        typer.Option(help="aclImdb archive, its folder, or a folder of .txt files. Default: download IMDB."),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run. Default: the newest finished one.")] = None,
    every_review: Annotated[bool, typer.Option("--all", help="Measure every test review: slow.")] = False,
    seed: Annotated[int, typer.Option(help="Of the choice of the reviews and of the samples.")] = 0,
) -> None:
    """Measure a language model on the held-out test reviews."""
    from training.language_model import reviews
    from training.language_model.evaluate import evaluate
    from training.language_model.train import KIND, load, scored, validation_of
    from training.runs import Run

    measured = Run(run) if run else Run.newest_finished(KIND)
    texts = list(reviews.read_reviews(data or reviews.download(), "test"))
    figures = evaluate(scored(*load(measured)), texts, seed, every_review)
    typer.echo(json.dumps({"run": str(measured.path)} | figures | validation_of(measured)))


@train_app.command("style")
def train_style(
    styles: Annotated[
        list[Path],
        typer.Option("--style", help="A painting; repeat for several. Its file name becomes the style's name."),
    ],
    content: Content = None,
    run: RunOption = None,
    steps: Annotated[int, typer.Option(help="Batches to train for.")] = 3500,
    batch_size: Annotated[int, typer.Option(help="Photographs in a batch.")] = 4,
    size: Annotated[int, typer.Option(help="Side of the training crops in pixels.")] = 128,
    style_size: Annotated[
        int, typer.Option(help="Longer side of the paintings in pixels: the scale of the strokes.")
    ] = 384,
    width: Annotated[int, typer.Option(help="Channels of the network at full resolution.")] = 16,
    features: Annotated[
        str, typer.Option(help="Extractor that measures the loss: vgg19, or the faster compact.")
    ] = "vgg19",
    precision: Precision = "float32",
    seed: Seed = 1,
    sample_every: SampleEvery = 250,
    checkpoint_every: CheckpointEvery = 250,
    weights_dir: WeightsDir = None,
) -> None:
    """Train the fast style network with a perceptual loss."""
    _use_weights(weights_dir, needs_vgg19=features == "vgg19")
    from training.loop import Schedule
    from training.photos import Photos, download
    from training.style.network import StyleNetworkConfig
    from training.style.train import StyleTraining, train

    paintings = {path.stem: path for path in styles}
    config = StyleTraining(
        StyleNetworkConfig(tuple(paintings), width=width),
        steps=steps, batch_size=batch_size, size=size, style_size=style_size, features=features, precision=precision, seed=seed,
    )  # fmt: skip
    schedule = Schedule(steps, sample_every=sample_every, checkpoint_every=checkpoint_every)
    _report(train(config, paintings, Photos.of(content or download(), minimum=2), run, schedule))


@train_app.command("features")
def train_features(
    content: Content = None,
    run: RunOption = None,
    steps: Annotated[int, typer.Option(help="Batches to train for.")] = 900,
    batch_size: Annotated[int, typer.Option(help="Photographs in a batch.")] = 8,
    precision: Precision = "float32",
    seed: Seed = 1,
    checkpoint_every: CheckpointEvery = 200,
    weights_dir: WeightsDir = None,
) -> None:
    """Train the compact feature extractor, a student of VGG19."""
    _use_weights(weights_dir, needs_vgg19=True)
    from training.features.train import FeaturesTraining, train
    from training.loop import Schedule
    from training.photos import Photos, download

    config = FeaturesTraining(steps=steps, batch_size=batch_size, precision=precision, seed=seed)
    found = Photos.of(content or download(), minimum=32)
    _report(train(config, found, run, Schedule(steps, checkpoint_every=checkpoint_every)))


def _use_weights(weights_dir: Path | None, needs_vgg19: bool) -> None:
    from synthesis.features import WEIGHTS_DIR_VARIABLE, FeaturesError
    from training.downloads import fetch_vgg19

    if weights_dir is not None:
        if not weights_dir.is_dir():
            raise FeaturesError(
                f"--weights-dir: {weights_dir} is not a folder; give the folder that holds the weight files"
            )
        os.environ[WEIGHTS_DIR_VARIABLE] = str(weights_dir)
    if needs_vgg19:
        fetch_vgg19()


def _report(run) -> None:
    figures = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in run.result.items())
    typer.echo(f"{run.path}: {figures}")
