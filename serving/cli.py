"""Commands that call a server; those that start one, and those that need none, are registered with them."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from reverie_client import Client, PictureStep, Stream
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from imaging import images, xmp
from imaging.images import ENDINGS
from imaging.video.reader import is_animation
from imaging.video.restyle import FRAMES_PER_SECOND, stylize_folder, stylize_video
from reverie import outputs
from serving import health_report
from serving.batch_command import batch
from serving.door.key_commands import keys_app
from serving.local_commands import inspect, weights
from serving.server_commands import demo, serve
from serving.style_commands import read_style, styles_app
from serving.stylize_kinds import frame_rate, kind_of_result
from serving.telemetry.top import top

Address = Annotated[str, typer.Option(envvar="REVERIE_ADDRESS", help="gRPC address of the server.")]
Picture = Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP file.")]
Output = Annotated[Path, typer.Argument(help="File to write; its ending chooses png, jpeg or webp.")]
Features = Annotated[str, typer.Option(help="auto, vgg19, inception_v3 or compact.")]
SaveEvery = Annotated[int, typer.Option(help="Also write the picture every so many steps, beside OUTPUT.")]
Video = Annotated[Path | None, typer.Option(help="Also write the saved pictures as a film: .webp, .gif or .png.")]
MaxSeconds = Annotated[float, typer.Option(help="Take the best picture after this time; 0 for no limit.")]
PreserveColors = Annotated[bool, typer.Option(help="Paint in luminance only; the picture keeps its colors.")]
MarkOrNot = Annotated[bool, typer.Option(help="Say in the result's XMP how it was made.")]

LOCAL = "127.0.0.1:8001"


def add_commands(cli: typer.Typer) -> None:
    """Register the commands of this room."""
    for command in (serve, demo, stylize, generate, dream, transfer, batch, inspect, health, weights, top):
        cli.command()(command)
    cli.add_typer(keys_app, name="keys")
    cli.add_typer(styles_app, name="styles")


def stylize(
    source: Annotated[
        Path,
        typer.Argument(
            help="A picture (PNG, JPEG, WebP), a video (MP4, MOV, MKV, WebM, GIF, ...) or a folder of frames."
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(help="File to write; its ending chooses the format. For a folder, a folder or a video."),
    ],
    style: Annotated[str, typer.Option(help="Name of the style; empty takes the model's first.")] = "",
    styles: Annotated[str, typer.Option(help="A blend instead: name=weight, separated by commas.")] = "",
    style_file: Annotated[
        Path | None, typer.Option(help="A style of your own instead: what `reverie styles export` has written.")
    ] = None,
    strength: Annotated[float, typer.Option(help="From the photograph, 0, to the whole style, 1.")] = 1.0,
    preserve_colors: Annotated[bool, typer.Option(help="Keep the photograph's colors.")] = False,
    quality: Annotated[int, typer.Option(help="Of jpeg and webp, 1 to 100.")] = 92,
    size: Annotated[int, typer.Option(help="Longer side of the result in pixels, at most.")] = 1024,
    detail: Annotated[
        float, typer.Option(help="Restyle at 1 to 2 times that size and bring back: finer strokes.")
    ] = 1.0,
    smooth: Annotated[bool, typer.Option(help="Of videos and frames: less flicker where nothing moves.")] = True,
    fps: Annotated[float, typer.Option(help="Frames a second of a video that is made of a folder.")] = float(
        FRAMES_PER_SECOND
    ),
    provenance: MarkOrNot = True,
    address: Address = LOCAL,
) -> None:
    """Turn a photograph, a video or a folder of frames into paintings with the fast network."""
    options: dict[str, Any] = {
        "style": style, "strength": strength, "preserve_colors": preserve_colors, "quality": quality, "size": size,
        "detail": detail, "provenance": provenance,
    }  # fmt: skip
    if styles:
        options["styles"] = _blend(styles)
    if style_file:
        own = read_style(style_file)
        options |= {"style_vector": own.vector, "style_network": own.network}
    kind = kind_of_result(source, output)
    with _ended_by_signals(), Client(address, timeout=3600) as client:  # 8192 pixels take a small machine minutes.
        if kind == "picture":
            data, options["format"] = _read(source), _format(output)
            _check_outputs(output, [source])
            outputs.write(output, client.stylize(data, **options))
        else:
            _stylize_frames(client, source, output, kind, options, smooth, frame_rate(fps))
    typer.echo(f"wrote {output}")
    if kind == "picture" and is_animation(source):
        _warn(f"{source} has several frames and {output} the first; give an output ending in .mp4 for all of them")


def generate(
    prompt: Annotated[str, typer.Argument(help="Words to continue.")],
    max_tokens: Annotated[int, typer.Option(help="Tokens to add at most.")] = 16,
    temperature: Annotated[float, typer.Option(help="0 is greedy, 1 the model's own distribution.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample from the k most probable tokens; 0 from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens that together reach this.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text; none draws one.")] = None,
    address: Address = LOCAL,
) -> None:
    """Continue a prompt; all parameters: docs/generate.md."""
    with Client(address) as client:
        typer.echo(prompt, nl=False)
        with client.generate(
            prompt, max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        ) as stream:
            for piece in stream:
                typer.echo(piece.text, nl=False)
        typer.echo()


def dream(
    picture: Picture,
    output: Output,
    recipe: Annotated[
        str, typer.Option(help="forms, or book; it decides whatever has no default here: docs/dream.md.")
    ] = "forms",
    layers: Annotated[
        str,
        typer.Option(help="name=weight or name:channel=weight, separated by commas; empty: the extractor's defaults."),
    ] = "",
    step: Annotated[float | None, typer.Option(help="Length of one ascent step.")] = None,
    num_octave: Annotated[
        int | None, typer.Option(help="Sizes to dream at; 0 takes as many as the picture has room for.")
    ] = None,
    octave_scale: Annotated[float, typer.Option(help="Ratio between neighboring sizes.")] = 1.4,
    iterations: Annotated[int | None, typer.Option(help="Steps an octave.")] = None,
    max_loss: Annotated[float | None, typer.Option(help="End an octave above this loss; 0 never.")] = None,
    size: Annotated[int, typer.Option(help="Longer side of the result in pixels, at most.")] = 1024,
    guide: Annotated[Path | None, typer.Option(help="A picture whose forms the dream takes up.")] = None,
    jitter: Annotated[int | None, typer.Option(help="Roll the picture by up to so many pixels in each step.")] = None,
    tile: Annotated[int, typer.Option(help="Side of the tiles of a large picture, in pixels; 0 for none.")] = 0,
    smooth: Annotated[float | None, typer.Option(help="Blur mixed into the gradient, in pixels.")] = None,
    strength: Annotated[float, typer.Option(help="Of the change: 0 the photograph, 1 the dream.")] = 1.0,
    preserve_colors: PreserveColors = False,
    frames: Annotated[int, typer.Option(help="Pictures of a zoom sequence.")] = 1,
    zoom: Annotated[float, typer.Option(help="From one frame to the next.")] = 1.05,
    precision: Annotated[str | None, typer.Option(help="float32, bfloat16, or auto: the faster.")] = None,
    seed: Annotated[int, typer.Option(help="Of the jitter and the tiles.")] = 0,
    max_seconds: MaxSeconds = 0.0,
    features: Features = "auto",
    save_every: SaveEvery = 0,
    video: Video = None,
    provenance: MarkOrNot = True,
    address: Address = LOCAL,
) -> None:
    """DeepDream on a picture; all parameters: docs/dream.md."""
    options: dict[str, Any] = {
        "recipe": recipe, "layers": layers, "step": step, "num_octave": num_octave, "octave_scale": octave_scale, "iterations": iterations,
        "max_loss": max_loss, "size": size, "jitter": jitter, "tile": tile, "smooth": smooth, "strength": strength,
        "preserve_colors": preserve_colors, "frames": frames, "zoom": zoom, "precision": precision, "seed": seed,
        "max_seconds": max_seconds, "features": features, "preview_every": save_every, "format": _format(output),
        "provenance": provenance,
    }  # fmt: skip
    image, guide_image = _read(picture), _read(guide) if guide else b""
    _check_film(video)
    _check_outputs(output, [picture, *([guide] if guide else [])], video, previews=save_every > 0 or frames > 1)
    with _ended_by_signals(), Client(address, timeout=3600) as client:
        _follow(client.dream(image, guide_image=guide_image, **options), output, video)


def transfer(
    picture: Picture,
    style_pictures: Annotated[list[Path], typer.Argument(help="The painting whose style is taken, or several.")],
    output: Output,
    recipe: Annotated[
        str, typer.Option(help="balanced, or book; it decides whatever has no default here: docs/transfer.md.")
    ] = "balanced",
    steps: Annotated[int, typer.Option(help="Iterations of the optimizer.")] = 100,
    optimizer: Annotated[str, typer.Option(help="lbfgs, adam or sgd.")] = "lbfgs",
    content_weight: Annotated[float | None, typer.Option(help="How much of the picture is kept.")] = None,
    style_weight: Annotated[float, typer.Option(help="How much of the style is taken.")] = 1e-6,
    total_variation_weight: Annotated[float, typer.Option(help="How smooth the result is.")] = 1e-6,
    style_weights: Annotated[str, typer.Option(help="Share of each painting, separated by commas.")] = "",
    mask: Annotated[
        list[Path] | None, typer.Option(help="Where a painting's style belongs (white); one for each, in order.")
    ] = None,
    style_scale: Annotated[float, typer.Option(help="Size of the painting over the picture's.")] = 1.0,
    style_layers: Annotated[str, typer.Option(help="name=weight, separated by commas; empty: the book's.")] = "",
    content_layers: Annotated[str, typer.Option(help="name=weight, separated by commas; empty: the book's.")] = "",
    pooling: Annotated[str, typer.Option(help="max or average.")] = "max",
    initial: Annotated[str, typer.Option(help="Start from: content, style or noise.")] = "content",
    scales: Annotated[int, typer.Option(help="Sizes, each twice the one before; 0 chooses.")] = 0,
    bounded: Annotated[bool | None, typer.Option(help="Keep pixels in [0, 255] in every step.")] = None,
    preserve_colors: PreserveColors = False,
    precision: Annotated[str, typer.Option(help="float32, bfloat16, or auto: the faster.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    size: Annotated[int, typer.Option(help="Longer side of the result in pixels, at most.")] = 400,
    max_seconds: MaxSeconds = 0.0,
    features: Features = "auto",
    save_every: SaveEvery = 0,
    video: Video = None,
    provenance: MarkOrNot = True,
    address: Address = LOCAL,
) -> None:
    """Paint a picture in the style of others by Gatys' optimization; all parameters: docs/transfer.md."""
    options: dict[str, Any] = {
        "recipe": recipe, "bounded": bounded, "steps": steps, "optimizer": optimizer, "content_weight": content_weight, "style_weight": style_weight,
        "total_variation_weight": total_variation_weight, "style_weights": style_weights, "style_scale": style_scale,
        "style_layers": style_layers, "content_layers": content_layers, "pooling": pooling, "initial": initial,
        "scales": scales, "preserve_colors": preserve_colors, "precision": precision, "seed": seed, "size": size,
        "max_seconds": max_seconds, "features": features, "preview_every": save_every, "format": _format(output),
        "provenance": provenance,
    }  # fmt: skip
    image, styles, masks = (
        _read(picture),
        [_read(path) for path in style_pictures],
        [_read(path) for path in mask or []],
    )
    _check_film(video)
    _check_outputs(output, [picture, *style_pictures, *(mask or [])], video, previews=save_every > 0)
    with _ended_by_signals(), Client(address, timeout=3600) as client:
        _follow(client.transfer(image, styles, style_mask=masks, **options), output, video)


def health(
    address: Address = LOCAL,
    metrics: Annotated[
        str,
        typer.Option(
            help="Say also what each model did, by the metrics here, for example http://127.0.0.1:8002/metrics."
        ),
    ] = "",
    seconds: Annotated[float, typer.Option(min=0.1, help="With --metrics, watch for so many seconds.")] = 5.0,
) -> None:
    """Say whether a server and all its models are ready; exit status 0 if so."""
    with Client(address) as client:
        is_ready = client.ready()
    typer.echo(f"{address} is {'ready' if is_ready else 'not ready'}")
    try:
        for line in health_report.watch(metrics, seconds) if metrics else ():
            typer.echo(line)
    except (OSError, ValueError) as error:
        typer.echo(
            f"the metrics at {metrics} cannot be read: {error}; accepted: the URL that the server tells", err=True
        )
    sys.exit(0 if is_ready else 1)


def _follow(stream: Stream[PictureStep], output: Path, video: Path | None) -> None:
    """Show a live bar with the loss; write previews, frames, the result and the film."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    film: list[np.ndarray] = []
    with stream, Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("waiting", total=None)
        for message in stream:
            progress.update(task, total=message.steps, completed=message.step, description=_describe(message))
            if message.image:
                outputs.write(_path_of(message, output), message.image)
            if message.image and video:
                film.append(images.decode(message.image))
    typer.echo(f"wrote {output}{' (the time was up: the best so far)' if message.stopped else ''}")
    if video:
        last = film[-1].shape
        frames = [images.resize(frame, last[0], last[1]) for frame in film]
        profile = images.decode_picture(message.image).icc_profile
        images.write_film(frames, video, packet=xmp.in_picture(message.image), icc_profile=profile)
        typer.echo(f"wrote {video}")


def _describe(message: PictureStep) -> str:
    parts = ", ".join(f"{name} {value:.4g}" for name, value in message.loss_parts.items())
    return f"loss {message.loss:.5g}" + (f" ({parts})" if parts else "")


def _path_of(message: PictureStep, output: Path) -> Path:
    if message.done:
        return output
    return _preview_of(output, f"frame_{message.frame:04d}" if message.frame else f"{message.step:04d}")


def _preview_of(output: Path, ending: str) -> Path:
    return output.with_name(f"{output.stem}_{ending}.jpg")


def _check_outputs(output: Path, inputs: list[Path], video: Path | None = None, previews: bool = False) -> None:
    """Find out before the work whether every file can be written, and that none is an input or another output.

    Args:
        previews: pictures will be written beside `output`, numbered.
    """
    targets = [output, *([video] if video else [])]
    with _usage_errors("OUTPUT"):
        outputs.check_apart(targets)
        for target in [*targets, *(_sample_previews(output, inputs) if previews else [])]:
            outputs.check(target, inputs)


def _sample_previews(output: Path, inputs: list[Path]) -> list[Path]:
    """The longest name that a preview may have, and those that would overwrite an input."""
    numbered = re.compile(re.escape(output.stem) + r"_(frame_)?\d{4,}\.jpg")
    names = [path.name for path in inputs if numbered.fullmatch(path.name)]
    return [_preview_of(output, "frame_0000"), *(output.with_name(name) for name in names)]


@contextlib.contextmanager
def _usage_errors(parameter: str) -> Iterator[None]:
    try:
        yield
    except outputs.OutputError as error:
        raise typer.BadParameter(str(error), param_hint=parameter) from None


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does: what it was writing is removed."""

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    in_charge = threading.current_thread() is threading.main_thread()
    heard = [n for n in (signal.SIGTERM, signal.SIGHUP) if in_charge and signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_film(path: Path | None) -> None:
    if path and path.suffix.lower() not in images.FILMS:
        raise typer.BadParameter(
            f"{path.name} ends in {path.suffix!r}; accepted: {', '.join(images.FILMS)}", param_hint="--video"
        )


def _stylize_frames(
    client: Client,
    source: Path,
    output: Path,
    kind: str,
    options: dict[str, Any],
    smooth: bool,
    frames_per_second: Fraction,
) -> None:
    """Restyle a folder or a video under a progress bar; frames travel without loss."""
    columns = (TextColumn("frames"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())

    def restyle(frame: bytes) -> bytes:
        return client.stylize(frame, format="png", **options)

    with _usage_errors("OUTPUT"), Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=None)

        def on_frame(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        if kind == "folder":
            stylize_folder(source, output, restyle, on_frame, smooth)
        else:
            stylize_video(source, output, restyle, on_frame, smooth, _warn, frames_per_second)


def _warn(line: str) -> None:
    typer.echo(f"note: {line}", err=True)


def _blend(text: str) -> dict[str, float]:
    """Weights by name out of "name=weight,name=weight"."""
    try:
        pairs = [part.rsplit("=", 1) for part in text.split(",")]
        return {name.strip(): float(weight) for name, weight in pairs}
    except ValueError:
        raise typer.BadParameter(f"{text!r}; accepted: name=weight, separated by commas") from None


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise typer.BadParameter(f"{path} is not a file", param_hint="PICTURE")
    return path.read_bytes()


def _format(path: Path) -> str:
    if path.suffix.lower() not in ENDINGS:
        raise typer.BadParameter(
            f"{path.name} ends in {path.suffix!r}; accepted: {', '.join(ENDINGS)}", param_hint="OUTPUT"
        )
    return ENDINGS[path.suffix.lower()]
