"""Commands that start a server or call one."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from serving.client import Client, PictureStep, Stream

Address = Annotated[str, typer.Option(envvar="REVERIE_ADDRESS", help="gRPC address of the server.")]
Picture = Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP file.")]
Output = Annotated[Path, typer.Argument(help="File to write; its ending chooses png, jpeg or webp.")]
Features = Annotated[str, typer.Option(help="auto, vgg19, inception_v3 or compact.")]
SaveEvery = Annotated[int, typer.Option(help="Also write the picture every so many steps, beside OUTPUT.")]
Repository = Annotated[Path, typer.Option(help="Model repository to serve.")]

LOCAL = "127.0.0.1:8001"
_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


def add_commands(cli: typer.Typer) -> None:
    """Register every command of this file."""
    for command in (serve, demo, stylize, generate, dream, transfer, health, weights):
        cli.command()(command)


def serve(
    repository: Repository = Path("model_repository"),
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines call, and control, the server.")
    ] = "127.0.0.1",
    grpc_port: int = 8001,
    http_port: int = 8000,
    metrics_port: int = 8002,
    weights_dir: Annotated[
        Path | None, typer.Option(help="Folder with ImageNet weights of VGG19 and InceptionV3.")
    ] = None,
) -> None:
    """Serve the model repository until SIGINT or SIGTERM."""
    from serving.triton.server import Address as Listen
    from serving.triton.server import ServerError, TritonServer

    environment = {"REVERIE_WEIGHTS_DIR": str(weights_dir.resolve())} if weights_dir else {}
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    listen = Listen(host, grpc_port, http_port, metrics_port)
    with TritonServer(repository, listen, environment) as server:
        typer.echo(f"ready: gRPC {listen.grpc}, HTTP {listen.http}, metrics {listen.metrics}")
        while not stop.wait(0.5):
            if (status := server.poll()) is not None:
                raise ServerError(f"Triton ended by itself with status {status}")
        typer.echo("stopping")


def demo(
    repository: Repository = Path("model_repository"),
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("out/demo"),
) -> None:
    """Run the main job on the shipped models and write a gallery."""
    from serving.demo.run import run_demo

    sys.exit(0 if run_demo(repository, out) else 1)


def stylize(
    picture: Picture,
    output: Output,
    style: Annotated[str, typer.Option(help="Name of the style; empty takes the model's first.")] = "",
    size: Annotated[int, typer.Option(help="Longer side of the result in pixels, at most.")] = 1024,
    address: Address = LOCAL,
) -> None:
    """Turn a photograph into a painting with the fast network."""
    with Client(address) as client:
        output.write_bytes(client.stylize(_read(picture), style=style, size=size, format=_format(output)))
    typer.echo(f"wrote {output}")


def generate(
    prompt: Annotated[str, typer.Argument(help="Words to continue.")],
    max_tokens: Annotated[int, typer.Option(help="Tokens to add at most.")] = 60,
    temperature: Annotated[float, typer.Option(help="0 is greedy, 1 the model's own distribution.")] = 0.7,
    top_k: Annotated[int, typer.Option(help="Sample from the k most probable tokens; 0 from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens that together reach this.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text; none draws one.")] = None,
    address: Address = LOCAL,
) -> None:
    """Continue a prompt; all parameters: docs/generate.md."""
    with Client(address) as client:
        typer.echo(prompt, nl=False)
        options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        options |= {} if seed is None else {"seed": seed}
        with client.generate(prompt, **options) as stream:
            for piece in stream:
                typer.echo(piece.text, nl=False)
        typer.echo()


def dream(
    picture: Picture,
    output: Output,
    layers: Annotated[
        str, typer.Option(help="name=weight, separated by commas; empty takes the extractor's defaults.")
    ] = "",
    step: Annotated[float, typer.Option(help="Length of one ascent step.")] = 20.0,
    num_octave: Annotated[int, typer.Option(help="Sizes to dream at.")] = 3,
    octave_scale: Annotated[float, typer.Option(help="Ratio between neighbouring sizes.")] = 1.4,
    iterations: Annotated[int, typer.Option(help="Steps an octave.")] = 30,
    max_loss: Annotated[float, typer.Option(help="End an octave above this loss; 0 never.")] = 15.0,
    size: Annotated[int, typer.Option(help="Longer side of the result in pixels, at most.")] = 640,
    features: Features = "auto",
    save_every: SaveEvery = 0,
    address: Address = LOCAL,
) -> None:
    """DeepDream on a picture."""
    options: dict[str, Any] = {
        "layers": layers, "step": step, "num_octave": num_octave, "octave_scale": octave_scale, "iterations": iterations,
        "max_loss": max_loss, "size": size, "features": features, "preview_every": save_every, "format": _format(output),
    }  # fmt: skip
    with Client(address, timeout=3600) as client:
        _follow(client.dream(_read(picture), **options), output)


def transfer(
    picture: Picture,
    style_picture: Annotated[Path, typer.Argument(help="The painting whose style is taken.")],
    output: Output,
    steps: Annotated[int, typer.Option(help="Iterations of the optimiser.")] = 100,
    optimizer: Annotated[str, typer.Option(help="lbfgs, adam or sgd.")] = "lbfgs",
    content_weight: Annotated[float, typer.Option(help="How much of the picture is kept.")] = 2.5e-8,
    style_weight: Annotated[float, typer.Option(help="How much of the style is taken.")] = 1e-6,
    size: Annotated[int, typer.Option(help="Longer side of the result in pixels, at most.")] = 400,
    features: Features = "auto",
    save_every: SaveEvery = 0,
    address: Address = LOCAL,
) -> None:
    """Paint a picture in the style of another by Gatys' optimisation."""
    options: dict[str, Any] = {
        "steps": steps, "optimizer": optimizer, "content_weight": content_weight, "style_weight": style_weight,
        "size": size, "features": features, "preview_every": save_every, "format": _format(output),
    }  # fmt: skip
    with Client(address, timeout=3600) as client:
        _follow(client.transfer(_read(picture), _read(style_picture), **options), output)


def health(address: Address = LOCAL) -> None:
    """Say whether a server and all its models are ready; exit status 0 if so."""
    with Client(address) as client:
        is_ready = client.ready()
    typer.echo(f"{address} is {'ready' if is_ready else 'not ready'}")
    sys.exit(0 if is_ready else 1)


def weights(name: Annotated[str, typer.Argument(help="vgg19 or inception_v3.")]) -> None:
    """Download ImageNet weights into the Keras cache, once."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from synthesis import features

    typer.echo(f"{name}: {features.weights_path(name) or features.download(name)}")


def _follow(stream: Stream[PictureStep], output: Path) -> None:
    """Show a live bar with the loss, write previews and the result."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with stream, Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("waiting", total=None)
        for message in stream:
            progress.update(task, total=message.steps, completed=message.step, description=f"loss {message.loss:.5g}")
            if message.done:
                output.write_bytes(message.image)
            elif message.image:
                output.with_name(f"{output.stem}_{message.step:04d}.jpg").write_bytes(message.image)
    typer.echo(f"wrote {output}")


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise typer.BadParameter(f"{path} is not a file", param_hint="PICTURE")
    return path.read_bytes()


def _format(path: Path) -> str:
    if path.suffix.lower() not in _FORMATS:
        raise typer.BadParameter(
            f"{path.name} ends in {path.suffix!r}; accepted: {', '.join(_FORMATS)}", param_hint="OUTPUT"
        )
    return _FORMATS[path.suffix.lower()]
