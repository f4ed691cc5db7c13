"""The demo's `index.html`: one page without scripts or outside resources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from reverie.pages import templates


class Lead(NamedTuple):
    """What stands above a job: its title, and what it does in a sentence."""

    title: str
    text: str


_LEADS = {
    "style": Lead(
        "A photograph, painted",
        "One fast network redraws the photograph in one pass, in each of the styles that it was trained on.",
    ),
    "generate": Lead(
        "A review, imagined",
        "The language model continues two words. The temperature sets how far it strays from what is likely.",
    ),
    "deepdream": Lead(
        "A dream",
        "Gradient ascent makes the network see more of what it sees, from a small octave to the full size.",
    ),
    "style_transfer": Lead(
        "A transfer, step by step",
        "Gatys' optimization repaints the photograph toward the textures of the stained glass, here through the small shipped features.",
    ),
}


@dataclass(frozen=True)
class Picture:
    """A file beside the page, and what is written under it."""

    file: str
    caption: str


class Job(Protocol):
    """What the page shows of a job; see `serving.demo.run.Result`."""

    name: str
    ok: bool
    seconds: float
    messages: int | None
    error: str
    pictures: list[Picture]
    texts: dict[str, str]


def render(jobs: Sequence[Job], startup: float, total: float) -> str:
    """Return the page for `jobs`; it names pictures relative to itself.

    Args:
        startup: seconds until the server was ready.
        total: seconds in all.
    """
    template = templates("serving.demo").get_template("gallery.html.jinja")
    return template.render(jobs=jobs, leads=_LEADS, startup=startup, total=total)
