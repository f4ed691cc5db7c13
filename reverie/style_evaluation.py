"""`reverie eval style`: style networks on held-out photographs, published versions and training runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from training.cli import use_weights

_SIGNIFICANT = 4


def eval_style(
    styles: Annotated[
        list[Path], typer.Option("--style", help="A painting; repeat for several. Its file name is the style's name.")
    ],
    run: Annotated[Path | None, typer.Option(help="Folder of a training run to measure.")] = None,
    version: Annotated[str | None, typer.Option(help="Published version to measure. Default: the newest.")] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="A version's number or a run's folder to measure beside it; repeat for several."),
    ] = None,
    photos: Annotated[Path | None, typer.Option(help="Folder of photographs that no training saw.")] = None,
    content: Annotated[
        Path | None,
        typer.Option(
            help="Folder that the runs were trained on: without --photos, those held out of it. Default: COCO's."
        ),
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="TensorFlow Lite image classifier, for `recognised`; without one it is null.")
    ] = None,
    perceived: Annotated[
        int, typer.Option(help="So many photographs meet VGG19, which takes long; all the others.")
    ] = 12,
    size: Annotated[int, typer.Option(help="Longer side of the photographs in pixels.")] = 512,
    strength: Annotated[float | None, typer.Option(help="Of the style. Default: as it is served.")] = None,
    repository: Annotated[Path, typer.Option(help="Where models are published.")] = Path("model_repository"),
    cache: Annotated[Path, typer.Option(help="Where statistics of the paintings are kept.")] = Path("cache")
    / "style_targets",
    weights_dir: Annotated[
        Path | None, typer.Option(help="Folder with VGG19's ImageNet weights, if not in the Keras cache.")
    ] = None,
) -> None:
    """Measure style networks on held-out photographs: what is left of them, how near the painting is, the surface."""
    use_weights(weights_dir, needs_vgg19=True)
    from reverie.restylers import DEFAULT_STRENGTH, newest, restyler_of
    from synthesis import images
    from training.photos import Photos, download
    from training.style.evaluation.classifier import Classifier
    from training.style.evaluation.evaluate import Judges, evaluate, look_at
    from training.style.evaluation.faces import FaceDetector
    from training.style.evaluation.perception import painting_statistics
    from training.style.train import split

    names = [str(run) if run else version or newest(repository), *(against or [])]
    networks = [restyler_of(name, repository) for name in names]
    say = lambda line: typer.echo(line, err=True)  # noqa: E731
    judges = Judges(Classifier(classifier) if classifier else None, FaceDetector())
    held_out = Photos.of(photos) if photos else split(Photos.of(content or download(), minimum=2))[1]
    looked_at = look_at(held_out.paths, size, perceived, judges)
    paintings = {path.stem: painting_statistics(images.read(path), cache) for path in styles}
    chosen = DEFAULT_STRENGTH if strength is None else strength
    first, *others = [evaluate(network, looked_at, paintings, chosen, judges, say) for network in networks]
    result = first | {"size": size, "photos": len(looked_at), "perceived": perceived, "against": others}
    typer.echo(json.dumps(_rounded(result)))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.{_SIGNIFICANT}g}") if isinstance(value, float) else value
