"""Makes the asyncio twins of `client.py` and `admin.py`, so that there is one text to keep: python make_aio.py.

What waits for `Connection.run` or `close` becomes a coroutine; streams are returned as they are, and iterated with
`async for`. `tests/client/test_twins.py` fails if the files are not up to date.
"""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent / "reverie_client"
TWINS = {"client.py": "aio_client.py", "admin.py": "aio_admin.py"}
_WORDS = {
    r"\b(Client|Admin|Connection|Stream)\b(?!`)": r"Async\1",
    r"reverie_client\.(admin|transport)\b": r"reverie_client.aio_\1",
    r"\bwith Async": "async with Async",
    r"\bfor delta in\b": "async for delta in",
    r"self\._connection\.(run|close)\(": r"await self._connection.\1(",
    r"await self\._connection\.run\((.*)\)\.": r"(await self._connection.run(\1)).",
    r"\b__(enter|exit)__\b": r"__a\1__",
    r"self\.close\(\)": "await self.close()",
    r"safe to share between threads": "for the event loop in which it is first used",
}
_OUR_IMPORTS = re.compile("(?:^from reverie_client.*\n)+", re.MULTILINE)
_METHOD = re.compile(r"^    def \w+\(.*?(?=^    def |\Z)", re.DOTALL | re.MULTILINE)


def twin(source: str, name: str) -> str:
    """The asyncio twin of a module's text."""
    body = source.split('"""\n', 1)[1]
    for pattern, replacement in _WORDS.items():
        body = re.sub(pattern, replacement, body)
    body = re.sub("from reverie_client.aio_transport import (.*), Message, (.*)", _imports, body)
    body = _OUR_IMPORTS.sub(lambda found: "".join(sorted(found[0].splitlines(keepends=True))), body)
    body = _METHOD.sub(lambda found: _coroutine(found[0]), body)
    return f'"""The asyncio twin of `{name}`, made from it by `make_aio.py`: change that one."""\n{body}'


def _imports(found: re.Match[str]) -> str:
    return (
        f"from reverie_client.aio_transport import {found[1]}, {found[2]}\nfrom reverie_client.transport import Message"
    )


def _coroutine(method: str) -> str:
    waits = "await " in method or "def __aenter__" in method
    return method.replace("    def ", "    async def ", 1) if waits else method


if __name__ == "__main__":
    for source, target in TWINS.items():
        (PACKAGE / target).write_text(twin((PACKAGE / source).read_text(), source))
