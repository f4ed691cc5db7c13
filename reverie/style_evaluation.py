"""`reverie eval style`: style networks on held-out photographs, published versions and training runs side by side.

It lives here because it joins `serving`, which runs the files, and `training`, which knows the measurements.
TensorFlow is imported inside the command, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reverie import outputs
from training.cli import use_weights

if TYPE_CHECKING:
    from training.style.evaluation.evaluate import Judges, Paintings, Photograph, Restyler
    from training.style.evaluation.faces import FaceDetector

_DIGITS = 4
"""Significant ones of a figure."""


def eval_style(
    styles: Annotated[
        list[Path], typer.Option("--style", help="A painting; repeat for several. Its file name is the style's name.")
    ],
    run: Annotated[Path | None, typer.Option(help="Folder of a training run, finished or not, to measure.")] = None,
    version: Annotated[
        str | None, typer.Option(help="Published version, or its folder, to measure. Default: the newest.")
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(help="Version or run to measure beside it; repeat for several.")
    ] = None,
    photos: Annotated[
        list[Path] | None, typer.Option(help="Folder of photographs that no training saw; repeat for several.")
    ] = None,
    content: Annotated[
        Path | None,
        typer.Option(
            help="Folder that was trained on: those held out of it count too. Default without --photos: COCO's."
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="At most so many photographs, evenly spaced.")] = None,
    closely: Annotated[
        int, typer.Option(min=1, help="So many of them, evenly spaced, meet VGG19 and are moved, which takes longer.")
    ] = 12,
    curve: Annotated[
        int, typer.Option(min=0, help="So many of those draw the curve over strength; 0 for no curve.")
    ] = 3,
    size: Annotated[int, typer.Option(min=128, help="Longer side of the photographs in pixels.")] = 512,
    strength: Annotated[
        float | None, typer.Option(min=0, max=1, help="Strength of the style, 0 to 1. Default: as it is served.")
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="TensorFlow Lite image classifier that recognizes things; without one: null.")
    ] = None,
    passes: Annotated[
        int, typer.Option(min=0, help="Also count the L-BFGS passes that reach the network, at most so many: minutes.")
    ] = 0,
    noise_passes: Annotated[int, typer.Option(min=0, help="The same from noise, where Johnson et al. begin.")] = 0,
    repository: Annotated[Path, typer.Option(help="Where models are published.")] = Path("model_repository"),
    out: Annotated[Path, typer.Option(help="Folder of the plot and the contact sheet.")] = Path("out/style_evaluation"),
    cache: Annotated[Path, typer.Option(help="Where what is known of paintings is kept.")] = Path("cache"),
    weights_dir: Annotated[
        Path | None, typer.Option(help="Folder with VGG19's ImageNet weights, if not in the Keras cache.")
    ] = None,
) -> None:
    """Measure style networks on held-out photographs: what is left of them, how near the painting is, the surface."""
    outputs.check_folder(out, ["front.svg", "sheet.jpg"])
    use_weights(weights_dir, needs_vgg19=True)
    from reverie.restylers import DEFAULT_STRENGTH, newest, restyler_of
    from training.style.evaluation.evaluate import check_styles, look_at
    from training.style.evaluation.sheet import contact_sheet

    names = [str(run) if run else version or newest(repository), *(against or [])]
    networks = [restyler_of(name, repository) for name in names]
    paintings = {path.stem: path for path in styles}
    for network in networks:
        check_styles(network, paintings)
    chosen = DEFAULT_STRENGTH if strength is None else strength
    paths = held_out(photos or [], content, count)
    _say(f"{len(paths)} photographs, {len(paintings)} paintings")
    judges = _judges(classifier)
    looked_at = look_at(paths, size, closely, judges)
    targets = _statistics(paintings, cache)
    results = _measured(networks, looked_at, targets, chosen, judges)
    shown: dict[str, Any] = {"photos": len(paths), "closely": min(closely, len(paths)), "size": size}
    if curve:
        shown |= _front(networks, looked_at, targets, curve, results, out / "front.svg")
    if passes:
        _add_passes(networks, paintings, paths, chosen, (passes, noise_passes), cache, results)
    contact_sheet(networks, list(paintings), paths, chosen, out / "sheet.jpg")
    first, *others = results
    typer.echo(json.dumps(rounded(first | shown | {"sheet": str(out / "sheet.jpg"), "against": others})))


def _judges(classifier: Path | None) -> Judges:
    from training.style.evaluation.classifier import Classifier
    from training.style.evaluation.evaluate import Judges

    return Judges(Classifier(classifier) if classifier else None, _face_detector())


def _face_detector() -> FaceDetector | None:
    from training.style.evaluation.faces import FaceDetector, FacesError

    try:
        return FaceDetector()
    except FacesError as error:
        _say(f"faces_kept is null: {error}")
        return None


def _say(line: str) -> None:
    typer.echo(line, err=True)


def held_out(folders: Sequence[Path], content: Path | None, count: int | None) -> list[Path]:
    """Return the photographs that no training saw: those of the folders, and those that are held out of `content`.

    Args:
        content: what runs were trained on; without it and any folder, COCO's validation set.
        count: at most so many, evenly spaced; None for all.
    """
    from training.photos import Photos, download
    from training.style.evaluation.evaluate import evenly
    from training.style.train import split

    paths = [path for folder in folders for path in Photos.of(folder).paths]
    if content or not folders:
        paths += split(Photos.of(content or download(), minimum=2))[1].paths
    return [paths[i] for i in evenly(len(paths), count or len(paths))]


def _statistics(paintings: Mapping[str, Path], cache: Path) -> Paintings:
    from imaging import images
    from training.style.evaluation.perception import painting_statistics

    return {name: painting_statistics(images.read(path), cache / "style_targets") for name, path in paintings.items()}


def _measured(
    networks: Sequence[Restyler], photos: Sequence[Photograph], paintings: Paintings, strength: float, judges: Judges
) -> list[dict[str, Any]]:
    """The figures of each network, with its milliseconds."""
    from training.style.evaluation.evaluate import evaluate, milliseconds

    results = [evaluate(network, photos, paintings, strength, judges, _say) for network in networks]
    return [result | {"ms_512": ms} for result, ms in zip(results, milliseconds(networks), strict=True)]


def _front(
    networks: Sequence[Restyler],
    photos: Sequence[Photograph],
    paintings: Paintings,
    count: int,
    results: Sequence[dict[str, Any]],
    path: Path,
) -> dict[str, Any]:
    """Add every style's curve to the results, draw them, and say where, and beside whom."""
    from reverie.style_plot import front
    from training.style.evaluation.evaluate import curve, evenly
    from training.style.evaluation.peers import PEERS

    close = [photo for photo in photos if photo.content is not None]
    chosen = [close[i] for i in evenly(len(close), count)]
    curves = [(network.name, curve(network, chosen, paintings, _say)) for network in networks]
    for result, (_, styles) in zip(results, curves, strict=True):
        for style, points in styles.items():
            result["styles"][style]["curve"] = points
    path.parent.mkdir(parents=True, exist_ok=True)
    outputs.write(path, front(curves, PEERS))
    return {"plot": str(path), "peers": [asdict(peer) for peer in PEERS]}


def _add_passes(
    networks: Sequence[Restyler],
    paintings: Mapping[str, Path],
    photos: Sequence[Path],
    strength: float,
    counts: tuple[int, int],
    cache: Path,
    results: Sequence[dict[str, Any]],
) -> None:
    from training.style.evaluation.passes import PassesSettings, count_passes

    settings = PassesSettings(*counts, cache=cache / "style_curves")
    for network, result in zip(networks, results, strict=True):
        result["passes"] = count_passes(network, paintings, photos, strength, settings, _say)


def rounded(value: Any) -> Any:
    """Return the numbers rounded to `_DIGITS` significant digits, in dictionaries and lists too."""
    if isinstance(value, Mapping):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
