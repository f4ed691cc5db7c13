"""Pages made from Jinja2 templates; whatever is put into one is escaped. Knows nothing of what a page shows."""

from __future__ import annotations

import functools
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@functools.cache
def templates(package: str) -> Environment:
    """Return the templates in the folder `templates` of a package, such as "loadtests"."""
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def macros(package: str, template: str) -> Any:
    """Return the macros of a template as functions; each returns `markupsafe.Markup`, which is not escaped again."""
    return templates(package).get_template(template).module
