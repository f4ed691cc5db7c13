"""Functions, modules and classes stay small, and what is private stays at home, as the syntax trees say."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest

PROJECT = Path(__file__).resolve().parents[1]
NOT_OURS = {"tests", "out", "cache", "runs", "build", "dist"}
"""Folders beside the code: the tests, and what .gitignore names."""

LONGEST_FUNCTION = 40
LONGEST_MODULE = 400
MOST_PUBLIC_METHODS = 12
GIVEN_BY_TRITON = {"TritonPythonModel"}
"""Names of classes that its backend looks for in each model."""

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef
Node = TypeVar("Node", bound=ast.AST)


@cache
def modules() -> dict[Path, ast.Module]:
    """The tree of each Python file outside `tests/`, by its path within the project."""
    folders = [
        path for path in PROJECT.iterdir() if path.is_dir() and path.name[0] != "." and path.name not in NOT_OURS
    ]
    files = sorted(file for folder in folders for file in folder.rglob("*.py"))
    return {file.relative_to(PROJECT): ast.parse(file.read_text()) for file in files}


def found(kind: type[Node] | tuple[type[Node], ...]) -> Iterator[tuple[str, Node]]:
    """Each node of that kind, and where it is, as an editor opens it."""
    for file, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, kind):
                yield f"{file}:{node.lineno}", node


def lines_of_body(function: Function) -> int:
    """From the first statement to the last one's end; the docstring is none of them."""
    body = function.body[ast.get_docstring(function, clean=False) is not None :]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def public_methods(klass: ast.ClassDef) -> list[str]:
    """Properties are among them."""
    names = {node.name for node in klass.body if isinstance(node, FUNCTIONS)}  # A setter has its property's name.
    return sorted(name for name in names if not name.startswith("_"))


def package(file: Path) -> str:
    """The name that `file` is imported by begins with it; a distribution of its own lies two folders deep."""
    return file.parts[2 if file.parts[0] == "clients" else 0]


def is_private(name: str) -> bool:
    """As `_name`; `__version__` is for everybody."""
    return name.startswith("_") and not name.endswith("__")


@cache
def module_names() -> set[str]:
    """Of our modules and packages, as they are imported."""
    names = set()
    for file in modules():
        parts = [
            *file.parts[list(file.parts).index(package(file)) : -1],
            *([file.stem] if file.stem != "__init__" else []),
        ]
        names.update(".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return names


def private_imports(tree: ast.Module) -> Iterator[ast.AST]:
    """`from module import _name`, `from _module import name`, and `module._name` where `module` is one of ours."""
    ours: set[str] = set()  # What the file calls our modules.
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            if any(is_private(name) for name in names):
                yield node
            ours.update(
                alias.asname or alias.name for alias in node.names if f"{node.module}.{alias.name}" in module_names()
            )
        elif isinstance(node, ast.Import):
            ours.update(alias.asname or alias.name for alias in node.names if alias.name in module_names())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) in ours:
            yield node


def refuse(violations: list[str]) -> None:
    """All of them are in the message."""
    assert not violations, "\n" + "\n".join(violations)


def test_a_function_fits_on_a_screen():
    sizes = ((where, function.name, lines_of_body(function)) for where, function in found(FUNCTIONS))
    refuse([f"{where} {name}: {lines} lines" for where, name, lines in sizes if lines > LONGEST_FUNCTION])


def test_a_module_has_one_topic():
    sizes = {file: len((PROJECT / file).read_text().splitlines()) for file in modules()}
    refuse([f"{file}: {lines} lines" for file, lines in sizes.items() if lines > LONGEST_MODULE])


def test_a_class_has_few_public_methods():
    counts = ((where, klass.name, len(public_methods(klass))) for where, klass in found(ast.ClassDef))
    refuse([f"{where} {name}: {count} public methods" for where, name, count in counts if count > MOST_PUBLIC_METHODS])


def test_a_class_s_name_is_given_once_in_a_package():
    places = defaultdict(list)
    for where, klass in found(ast.ClassDef):
        if klass.name not in GIVEN_BY_TRITON:
            places[package(Path(where)), klass.name].append(where)
    refuse([f"{name}: {', '.join(lines)}" for (_, name), lines in places.items() if len(lines) > 1])


def test_what_is_private_is_not_imported():
    imports = ((file, node) for file, tree in modules().items() for node in private_imports(tree))
    refuse([f"{file}:{node.lineno} {ast.unparse(node)}" for file, node in imports])


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("from serving.text import _engine", False),
        ("from serving.text.pool import _Part", False),
        ("from serving import text\ntext._name", False),
        ("import serving.text as t\nt._name", False),
        ("import serving.text\nserving.text._name", False),
        ("from serving import text\ntext.name", True),
        ("from __future__ import annotations\nself._name", True),
        ("import os\nos._exit(1)", True),
        ("from reverie_client import __version__", True),
    ],
)
def test_a_private_name_is_found_however_it_is_imported(code, allowed):
    assert (list(private_imports(ast.parse(code))) == []) is allowed


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ('def f():\n    """One.\n\n    Two.\n    """', 0),
        ('def f():\n    """One."""\n    a = 1\n\n    return (\n        a\n    )', 5),
        ("async def f(): pass", 1),
    ],
)
def test_a_body_is_counted_to_its_last_line_without_the_docstring(code, lines):
    assert lines_of_body(ast.parse(code).body[0]) == lines
