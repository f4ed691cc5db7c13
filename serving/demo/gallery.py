"""The demo's `index.html`: one page without scripts or outside resources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Reverie: the demo's gallery</title>
<style>
  :root {{ color-scheme: dark; --ink: #ece7df; --quiet: #9b948a; --wall: #171512; --mat: #211e1a; --line: #37322b; --gold: #d9a441; }}
  * {{ box-sizing: border-box; }}
  body {{ margin: 0; background: var(--wall); color: var(--ink); font: 16px/1.6 Georgia, "Times New Roman", serif; }}
  main {{ max-width: 1080px; margin: 0 auto; padding: 56px 24px 96px; }}
  h1 {{ font-weight: 400; font-size: 44px; letter-spacing: .01em; margin: 0 0 4px; }}
  header p {{ color: var(--quiet); margin: 0; }}
  section {{ margin-top: 64px; border-top: 1px solid var(--line); padding-top: 20px; }}
  h2 {{ font-weight: 400; font-size: 26px; margin: 0; display: flex; justify-content: space-between; align-items: baseline; gap: 16px; flex-wrap: wrap; }}
  h2 small {{ font: 13px/1.4 ui-sans-serif, system-ui, sans-serif; color: var(--gold); }}
  .lead {{ color: var(--quiet); margin: 4px 0 20px; max-width: 44em; }}
  .pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 20px; }}
  figure {{ margin: 0; background: var(--mat); padding: 12px 12px 8px; border: 1px solid var(--line); }}
  img {{ width: 100%; height: auto; display: block; }}
  figcaption {{ font: 13px/1.5 ui-sans-serif, system-ui, sans-serif; color: var(--quiet); padding-top: 8px; }}
  .strip {{ display: grid; grid-auto-flow: column; grid-auto-columns: minmax(110px, 1fr); gap: 8px; margin-top: 12px; overflow-x: auto; }}
  .strip figure {{ padding: 5px; }} .strip figcaption {{ padding-top: 3px; font-size: 11px; }}
  dl {{ display: grid; grid-template-columns: 5em 1fr; gap: 14px 20px; margin: 0; }}
  dt {{ font: 13px/2 ui-sans-serif, system-ui, sans-serif; color: var(--gold); }} dd {{ margin: 0; }}
  .failed {{ color: #ef8a76; }}
  footer {{ margin-top: 72px; color: var(--quiet); font: 13px/1.6 ui-sans-serif, system-ui, sans-serif; }}
</style>
<main>
<header><h1>Reverie</h1><p>Made just now on this machine by the shipped models, over gRPC: {total:.0f} s in all, of which Triton took {startup:.0f} s to start.</p></header>
{sections}
<footer>Photographs: pagoda by danielbuechele (CC BY 2.0), cat by Stefan van der Walt (CC0). The stained glass is drawn by the demo.</footer>
</main>
</html>
"""

_LEADS = {
    "style": (
        "A photograph, painted",
        "One fast network redraws the photograph in one pass, in each of the styles that it was trained on.",
    ),
    "generate": (
        "A review, imagined",
        "The language model continues two words. The temperature sets how far it strays from what is likely.",
    ),
    "deepdream": (
        "A dream",
        "Gradient ascent makes the network see more of what it sees, from a small octave to the full size.",
    ),
    "style_transfer": (
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
    """The page for `jobs`; pictures are referred to by name, relative to the page."""
    return _PAGE.format(sections="\n".join(_section(job) for job in jobs), startup=startup, total=total)


def _section(job: Job) -> str:
    title, lead = _LEADS[job.name]
    streamed = "" if job.messages is None else f", {job.messages} messages before the last"
    body = _texts(job.texts) if job.texts else _pictures(job.pictures)
    failure = f'<p class="failed">This part failed: {escape(job.error)}</p>' if not job.ok else ""
    return (
        f"<section><h2>{title}<small>{job.seconds:.1f} s{streamed}</small></h2>"
        f'<p class="lead">{lead}</p>{failure}{body}</section>'
    )


def _texts(texts: dict[str, str]) -> str:
    rows = "".join(f"<dt>{escape(t)}</dt><dd>{escape(words)}</dd>" for t, words in texts.items())
    return f"<dl>{rows}</dl>"


def _pictures(pictures: list[Picture]) -> str:
    """The first and the last picture side by side, what came between as a strip."""
    pair, between = [*pictures[:1], *pictures[1:][-1:]], pictures[1:-1]
    strip = f'<div class="strip">{"".join(map(_figure, between))}</div>' if between else ""
    return f'<div class="pair">{"".join(map(_figure, pair))}</div>{strip}'


def _figure(picture: Picture) -> str:
    file, caption = escape(picture.file), escape(picture.caption)
    return f'<figure><img src="{file}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
