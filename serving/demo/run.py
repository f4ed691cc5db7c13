"""The demo: start Triton, with its door, on a repository, do the four jobs over gRPC, write what came of them.

A job that fails does not stop the others; the summary says so and the exit status is not zero.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from reverie_client import Client, PictureStep, Stream
from rich.console import Console

from imaging import images
from reverie import outputs
from serving.demo import gallery
from serving.demo.gallery import Picture
from serving.demo.mosaic import stained_glass
from serving.security import Security
from serving.service import Service, started
from serving.triton.address import ListenAddress

PICTURES = Path(str(files("serving.demo") / "pictures"))
PROMPT = "This movie"
TEMPERATURES = (0.2, 0.5, 0.7, 1.0, 1.5)

console = Console(stderr=True)


@dataclass
class Result:
    """What one job did: its pictures in order, its continuations by temperature."""

    name: str
    ok: bool = False
    seconds: float = 0.0
    messages: int | None = None
    error: str = ""
    pictures: list[Picture] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Return the job's entry in summary.json; `messages` counts those before the last."""
        entry: dict[str, Any] = {"ok": self.ok, "seconds": round(self.seconds, 3)}
        entry |= {} if self.messages is None else {"messages": self.messages}
        entry |= {"error": self.error} if self.error else {}
        return entry | {"files": [p.file for p in self.pictures]} | ({"texts": self.texts} if self.texts else {})


def run_demo(repository: Path, out: Path) -> bool:
    """Do every job, and write images, texts, `index.html` and `summary.json` into `out`; return True if all went well."""
    outputs.check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    console.print("starting Triton and its door on", str(repository))
    service = Service(repository, ListenAddress.free(), Security(), has_gateway=False)
    with started(service, log=out / "triton.log") as running, Client(running.listen.grpc) as client:
        startup = time.monotonic() - began
        console.print(f"ready after {startup:.1f} s")
        jobs = {"style": paint, "generate": write, "deepdream": dream, "style_transfer": transfer}
        results = [_run(name, job, client, out) for name, job in jobs.items()]
        console.print("stopping Triton")
    total = time.monotonic() - began
    summary = {r.name: r.summary() for r in results} | {
        "startup_seconds": round(startup, 3),
        "total_seconds": round(total, 3),
    }
    outputs.write(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    outputs.write(out / "index.html", gallery.render(results, startup, total))
    console.print(f"{total:.1f} s in all; open {out / 'index.html'}")
    return all(r.ok for r in results)


def paint(client: Client, out: Path, result: Result) -> None:
    """Restyle a photograph in every style of the shipped network."""
    photo = (PICTURES / "pagoda.jpg").read_bytes()
    _save(out, result, Picture("photo.jpg", "the photograph"), photo)
    # The page shows the last picture large: the first style is what callers get who name none.
    for style in reversed(client.styles()):
        painting = client.stylize(photo, style=style, format="jpeg")
        _save(out, result, Picture(f"painting_{style}.jpg", style.replace("_", " ")), painting)


def write(client: Client, out: Path, result: Result) -> None:
    """Continue the prompt at each temperature, word by word."""
    result.messages = 0
    for temperature in TEMPERATURES:
        pieces = [p.text for p in client.generate(PROMPT, temperature=temperature, max_tokens=60, seed=7)]
        result.messages += len(pieces) - 1
        result.texts[str(temperature)] = PROMPT + "".join(pieces)
        console.print(f"  [dim]{temperature}:[/dim] {result.texts[str(temperature)][:100]}")
    text = "\n\n".join(f"temperature {t}\n{words}" for t, words in result.texts.items())
    outputs.write(out / "texts.txt", text + "\n")


def dream(client: Client, out: Path, result: Result) -> None:
    """Run DeepDream through the shipped features."""
    photo = (PICTURES / "cat.jpg").read_bytes()
    _save(out, result, Picture("dream_photo.jpg", "the photograph"), photo)
    _collect(client.dream(photo, preview_every=10, format="jpeg", features="compact"), out, result, "dream")


def transfer(client: Client, out: Path, result: Result) -> None:
    """Run Gatys' optimization with the shipped features, toward a painting that the demo draws."""
    photo, glass = (PICTURES / "pagoda.jpg").read_bytes(), stained_glass()
    _save(out, result, Picture("glass.jpg", "the style"), images.encode(glass, "jpeg"))
    options: dict[str, Any] = {"features": "compact", "size": 320, "steps": 40, "style_weight": 1e-5}
    _collect(
        client.transfer(photo, images.encode(glass), preview_every=8, format="jpeg", **options), out, result, "transfer"
    )


def _run(name: str, job: Callable[[Client, Path, Result], None], client: Client, out: Path) -> Result:
    result, began = Result(name), time.monotonic()
    console.print(f"[bold]{name}[/bold]")
    try:
        job(client, out, result)
        result.ok = True
    except Exception as error:
        result.error = f"{type(error).__name__}: {error}"
        console.print(f"  [red]failed[/red] {result.error}")
    result.seconds = time.monotonic() - began
    console.print(f"  {result.seconds:.1f} s")
    return result


def _collect(stream: Stream[PictureStep], out: Path, result: Result, stem: str) -> None:
    """Follow a picture's stream, keep its previews and its last picture, and say how it goes."""
    result.messages, is_done = 0, False
    with console.status("waiting") as status:
        for message in stream:
            status.update(f"step {message.step} of {message.steps}, loss {message.loss:.4g}")
            result.messages += not message.done
            is_done |= message.done
            if message.image:
                name = f"{stem}.jpg" if message.done else f"{stem}_{message.step:03d}.jpg"
                caption = "the result" if message.done else f"step {message.step}"
                _save(out, result, Picture(name, caption), message.image)
    if not is_done:
        raise RuntimeError("the stream ended before its last picture")


def _save(out: Path, result: Result, picture: Picture, data: bytes) -> None:
    outputs.write(out / picture.file, data)
    result.pictures.append(picture)
