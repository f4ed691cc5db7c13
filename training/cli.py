"""Commands `reverie train lm|average|style|painter|gallery|add-style|features` and `reverie eval lm`.

TensorFlow is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from training.style.cli import train_gallery, train_painter

train_app = typer.Typer(
    no_args_is_help=True, help="Train a model; the same command with --run continues a run that was stopped."
)

eval_app = typer.Typer(no_args_is_help=True, help="Measure a trained model; the last line of the output is JSON.")

RunOption = Annotated[
    Path | None,
    typer.Option("--run", help="Folder of the run; an unfinished one is resumed. Default: a new one under runs/."),
]
Content = Annotated[Path | None, typer.Option(help="Folder of photographs. Default: download COCO's validation set.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop where a photograph cannot be read, instead of continuing without it.")
]
Precision = Annotated[str, typer.Option(help="float32, or mixed_bfloat16 where the processor or GPU has bf16.")]
Seed = Annotated[int, typer.Option(help="Seed of the initial weights, the order of the data and the samples.")]
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
    preset: Annotated[
        str | None, typer.Option(help="book (listing 12-6) or reviews; the options below change it. Default: book.")
    ] = None,
    run: RunOption = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Start from the weights and the tokenizer of this run; its texts may be others."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Batches to train for.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows of one context each in a batch.")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="rmsprop (constant rate), adamw or muon (warm-up, cosine, clipping).")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Constant rate of rmsprop, peak of the others.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Share of activations dropped.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, or mixed_bfloat16 where there is bf16.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the weights, the order of the data and the samples.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Text that the samples continue.")] = None,
    strategy: Annotated[
        str, typer.Option(help="none, mirrored (all GPUs of this machine) or multiworker (processes of TF_CONFIG).")
    ] = "none",
    jit_compile: Annotated[
        bool, typer.Option("--jit-compile/--no-jit-compile", help="Compile the step with XLA: faster on a GPU.")
    ] = False,
    sample_every: Annotated[int | None, typer.Option(help="Steps between samples. Default: each epoch.")] = None,
    checkpoint_every: CheckpointEvery = 300,
    validate_every: Annotated[int, typer.Option(help="Steps between validations.")] = 300,
    cache: Annotated[Path, typer.Option(help="Where the tokenized reviews are kept.")] = Path("cache"),
) -> None:
    """Train a Transformer language model on movie reviews."""
    from training.distribution import Distribution
    from training.language_model import presets, reviews
    from training.language_model.train import KIND, LanguageModelTraining, train
    from training.loop import Schedule
    from training.runs import Run

    if preset is not None and preset not in presets.PRESETS:
        raise typer.BadParameter(f"{preset!r}; accepted: {', '.join(presets.PRESETS)}", param_hint="--preset")
    distribution = Distribution.of(strategy)  # before anything else uses TensorFlow
    distribution.check_path(run)
    opened = Run.at(KIND, run)
    known = LanguageModelTraining.from_dict(opened.config) if opened.exists and preset is None else None
    config = presets.adjusted(
        known or presets.PRESETS[preset or "book"](),
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
    data = data or opened.inputs.path("data") or reviews.download()
    if prompt is None and not opened.exists and not reviews.is_reviews(data):
        config = presets.adjusted(config, prompt=reviews.prompt_for(data))
    source = source or opened.inputs.path("from")
    if distribution.is_chief:
        opened.inputs.remember({"data": data, "from": source})
    initial = Run(source) if source else None
    trained = train(config, data, cache, opened.path, schedule, distribution, jit_compile, initial)
    if distribution.is_chief:
        report(trained)
    else:  # The chief may still be writing its result, or does so on another machine.
        typer.echo(f"this worker is done; worker 0, the chief, writes the run: {trained.path}")


@train_app.command("average")
def average_lm(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Runs of a language model. Runs that started from one another give the best mean."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Texts to validate on, as for lm. Default: download IMDB."),
    ] = None,
    run: RunOption = None,
    cache: Annotated[Path, typer.Option(help="Where the tokenized reviews are kept.")] = Path("cache"),
) -> None:
    """Make a run of the mean of several language models' weights."""
    from training.language_model import reviews
    from training.language_model.average import average
    from training.runs import Run

    report(average([Run(path) for path in runs], data or reviews.download(), cache, run))


@eval_app.command("lm")
def eval_lm(
    data: Annotated[
        Path | None,
        typer.Option(help="aclImdb archive, its folder, or a folder of .txt files. Default: download IMDB."),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run. Default: the newest finished one.")] = None,
    every_review: Annotated[bool, typer.Option("--all", help="Measure every test review: slow.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the choice of reviews and of the samples.")] = 0,
) -> None:
    """Measure a language model on the held-out test reviews."""
    from training.language_model import reviews
    from training.language_model.evaluate import evaluate
    from training.language_model.train import KIND, load, scored, validation_of
    from training.runs import Run

    measured = Run(run) if run else Run.newest_finished(KIND)
    source = data or measured.inputs.path("data") or reviews.download()
    texts = list(reviews.read_reviews(source, "test"))
    figures = evaluate(scored(*load(measured)), texts, seed, every_review, reviews.prompt_for(source))
    typer.echo(json.dumps({"run": str(measured.path)} | figures | validation_of(measured)))


@train_app.command("style")
def train_style(
    context: typer.Context,
    styles: Annotated[
        list[Path] | None,
        typer.Option("--style", help="A painting; repeat for several. Its file name becomes the style's name."),
    ] = None,
    content: Content = None,
    strict: Strict = False,
    run: RunOption = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Start from the weights of this run; its loss may be another, its network smaller."
        ),
    ] = None,
    preset: Annotated[str, typer.Option(help="fast, or johnson: the full-size network, for comparison.")] = "fast",
    steps: Annotated[int, typer.Option(help="Batches to train for.")] = 12_000,
    batch_size: Annotated[int, typer.Option(help="Photographs in a batch.")] = 1,
    size: Annotated[int, typer.Option(help="Side of the training crops in pixels.")] = 320,
    style_size: Annotated[
        int, typer.Option(help="Longer side of the paintings in pixels: the scale of the strokes.")
    ] = 512,
    content_error: Annotated[
        list[float] | None,
        typer.Option(
            help="How much of the photograph is given up (0 nothing, 1 all); repeat for one a style. Default: 0.6."
        ),
    ] = None,
    content_weight: Annotated[
        float,
        typer.Option(help="Weight of the content error at the start; it moves until the error is --content-error."),
    ] = 0.3,
    learning_rate: Annotated[float, typer.Option(help="Peak rate of Adam.")] = 2e-3,
    width: Annotated[int, typer.Option(help="Channels of the residual blocks; 0 for the preset's.")] = 0,
    blocks: Annotated[int, typer.Option(help="Residual blocks; 0 for the preset's.")] = 0,
    distilled_steps: Annotated[
        int, typer.Option(help="Steps at the start that only copy a teacher: --teacher, or --pairs made by Gatys.")
    ] = 0,
    teacher: Annotated[Path | None, typer.Option(help="A finished style run with the same styles.")] = None,
    pairs: Annotated[
        int, typer.Option(help="Transfers by Gatys' optimization to make (once, kept in --cache) and copy.")
    ] = 0,
    cache: Annotated[Path, typer.Option(help="Where the pairs are kept.")] = Path("cache") / "style_pairs",
    features: Annotated[
        str, typer.Option(help="Extractor that measures the loss: vgg19, or the faster compact.")
    ] = "vgg19",
    precision: Precision = "float32",
    seed: Seed = 1,
    sample_every: SampleEvery = 250,
    checkpoint_every: CheckpointEvery = 250,
    weights_dir: WeightsDir = None,
) -> None:
    """Train the fast style network with a perceptual loss, after a teacher's example where one is given."""
    from training.photos import Photos, download
    from training.runs import Run
    from training.style.train import KIND, StyleTraining, named_paintings, teacher_of, train

    opened = Run.at(KIND, run)
    styles = styles or opened.inputs.paths("styles")
    if not styles:
        raise typer.BadParameter("give at least one painting", param_hint="--style")
    paintings = named_paintings(styles)
    known = StyleTraining.from_dict(opened.config) if opened.exists else StyleTraining.of(paintings)
    given = _given(context, StyleTraining.__dataclass_fields__) | (
        {"content_error": tuple(content_error)} if content_error else {}
    )
    config = known.changed(paintings, **given, **_given(context, ("preset", "width", "blocks")))
    teacher, pairs = teacher or opened.inputs.path("teacher"), pairs or opened.inputs.get("pairs", 0)
    if bool(config.distilled_steps) != bool(teacher or pairs) or (teacher and pairs):
        raise typer.BadParameter("give it together with one of --teacher and --pairs", param_hint="--distilled-steps")
    use_weights(weights_dir or opened.inputs.path("weights_dir"), needs_vgg19=config.features == "vgg19")
    from training.loop import Schedule

    content = content or opened.inputs.path("content") or download()
    source = source or opened.inputs.path("from")
    opened.inputs.remember(
        {
            "styles": styles,
            "content": content,
            "from": source,
            "teacher": teacher,
            "pairs": pairs,
            "weights_dir": weights_dir,
        }
    )
    schedule = Schedule(config.steps, sample_every=sample_every, checkpoint_every=checkpoint_every)
    photos = Photos.of(content, 2, strict)
    say = lambda made: typer.echo(f"pair {made} of {pairs}", err=True)  # noqa: E731
    chosen = teacher_of(config, paintings, photos, teacher, pairs, cache, say)
    report(train(config, paintings, photos, opened.path, schedule, chosen, Run(source) if source else None))


train_app.command("painter")(train_painter)
train_app.command("gallery")(train_gallery)


@train_app.command("add-style")
def add_style(
    context: typer.Context,
    style: Annotated[Path | None, typer.Option(help="The painting.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new style. Default: the painting's file name.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Finished run to extend. Default: the newest finished one.")
    ] = None,
    content: Content = None,
    strict: Strict = False,
    run: RunOption = None,
    steps: Annotated[int, typer.Option(help="Batches to train for.")] = 600,
    learning_rate: Annotated[float, typer.Option(help="Peak rate of Adam.")] = 1e-2,
    precision: Precision = "float32",
    checkpoint_every: CheckpointEvery = 100,
    weights_dir: WeightsDir = None,
) -> None:
    """Teach a trained style network one more style; the styles it knows stay bit for bit as they are."""
    from training.photos import Photos, download
    from training.runs import Run
    from training.style.train import KIND

    opened = Run.at(KIND, run)
    style = style or opened.inputs.path("style")
    if style is None:
        raise typer.BadParameter("give a painting", param_hint="--style")
    use_weights(weights_dir or opened.inputs.path("weights_dir"), needs_vgg19=True)
    from training.loop import Schedule
    from training.style.add import add

    source, content = source or opened.inputs.path("from"), content or opened.inputs.path("content") or download()
    name = name or opened.inputs.get("name") or style.stem
    extended = Run(source) if source else Run.newest_finished(KIND)
    changes: dict[str, Any] = {"steps": steps, "learning_rate": learning_rate, "precision": precision}
    if opened.exists:
        changes = {known: opened.config[known] for known in changes} | _given(context, changes)
    opened.inputs.remember(
        {"style": style, "name": name, "from": extended.path, "content": content, "weights_dir": weights_dir}
    )
    schedule = Schedule(changes.pop("steps"), sample_every=100, checkpoint_every=checkpoint_every)
    report(add(extended, name, style, Photos.of(content, 2, strict), opened.path, schedule, **changes))


@train_app.command("features")
def train_features(
    context: typer.Context,
    content: Content = None,
    strict: Strict = False,
    run: RunOption = None,
    styles: Annotated[
        list[Path] | None, typer.Option("--style", help="A painting whose style it also meets; may be repeated.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Batches to train for.")] = 5000,
    batch_size: Annotated[int, typer.Option(help="Pictures in a batch, half of them photographs.")] = 8,
    precision: Precision = "float32",
    seed: Seed = 1,
    checkpoint_every: CheckpointEvery = 200,
    weights_dir: WeightsDir = None,
) -> None:
    """Train the compact feature extractor, a student of VGG19."""
    from training.runs import Run

    opened = Run.at("features", run)
    use_weights(weights_dir or opened.inputs.path("weights_dir"), needs_vgg19=True)
    from training.features.train import FeaturesTraining, train
    from training.loop import Schedule
    from training.photos import Photos, download

    settings: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "precision": precision, "seed": seed}
    if opened.exists:
        settings = {known: opened.config[known] for known in settings} | _given(context, settings)
    content, styles = content or opened.inputs.path("content") or download(), styles or opened.inputs.paths("styles")
    opened.inputs.remember({"content": content, "styles": styles, "weights_dir": weights_dir})
    config = FeaturesTraining(**settings)
    schedule = Schedule(config.steps, checkpoint_every=checkpoint_every)
    report(train(config, Photos.of(content, 32, strict), Photos(tuple(styles)), opened.path, schedule))


def _given(context: typer.Context, names: Iterable[str]) -> dict[str, Any]:
    """The options of these names that were typed, not left to their defaults."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return {name: context.params[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def use_weights(weights_dir: Path | None, needs_vgg19: bool) -> None:
    """Look for ImageNet weights in `weights_dir`; make sure that VGG19's are there where they are needed.

    Raises:
        FeaturesError: `weights_dir` is not a folder.
        DownloadError: VGG19's weights are neither here nor to be had.
    """
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


def report(run) -> None:
    """Say what a run reached."""
    figures = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in run.result.items())
    typer.echo(f"{run.path}: {figures}")
