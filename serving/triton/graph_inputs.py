"""What an ONNX graph takes, and whose fault it is when a run fails: the caller's, or the model's.

Checked before a run: names, types, ranks, sizes, and that numbers are finite. Not every graph says all that it needs;
of a run that failed, the caller is told so only where the failure names something of his, or where his
shapes are beyond those that the version is known to run, and it still runs those. Knows nothing about Triton.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reverie.errors import InputError, ToolkitError

RECORDED = "recorded.npz"
RECORDED_INPUT = "in:"
"""In front of an input's name in `RECORDED`; `registry.golden` writes it."""

Feeds = Mapping[str, np.ndarray]
Run = Callable[[Feeds], Any]

_NUMPY_NAMES = {"float": "float32", "double": "float64", "string": "object"}
_INDEX_TYPES = (np.int32, np.int64)
_BAD_INDEX = re.compile(r"ind(?:ex|ices)\b.*?(?:idx|index) ?= ?(-?\d+)(?:.*?range \[(-?\d+), ?(-?\d+)\])?", re.DOTALL)
"""Of Gather, which also says what it accepts, GatherND and their like."""
_BAD_SIZES = re.compile(r"(\d+) by (\d+)|Got: (\d+) Expected: (\d+)")


class ModelError(ToolkitError):
    """A model failed on inputs that it should take."""


@dataclass(frozen=True)
class GraphInput:
    """An input of a graph.

    Attributes:
        dims: a number where the graph fixes the size, else a name, or None; equal names are equal sizes.
    """

    name: str
    dtype: np.dtype
    dims: tuple[int | str | None, ...]

    @classmethod
    def of(cls, node: Any) -> GraphInput:
        """Read ONNX Runtime's description (`NodeArg`)."""
        element = node.type.removeprefix("tensor(").removesuffix(")")
        return cls(node.name, np.dtype(_NUMPY_NAMES.get(element, element)), tuple(node.shape))

    def check(self, array: np.ndarray) -> None:
        """Raise InputError if `array` is not what this input takes."""
        if array.dtype != self.dtype:
            raise InputError(f"{self.name}: type {array.dtype}; accepted: {self.dtype}")
        if array.ndim != len(self.dims) or not all(map(_fits, array.shape, self.dims)):
            raise InputError(f"{self.name}: shape {list(array.shape)}; accepted: {self._accepted()}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{self.name}: holds NaN or infinity; accepted: finite numbers")

    def sizes(self, array: np.ndarray) -> dict[str, int]:
        """Return the sizes that `array` gives to the graph's named dimensions."""
        return {dim: n for dim, n in zip(self.dims, array.shape, strict=True) if isinstance(dim, str)}

    def free(self, array: np.ndarray) -> set[int]:
        """Return the sizes of `array` that the graph does not fix."""
        return {n for dim, n in zip(self.dims, array.shape, strict=True) if not isinstance(dim, int)}

    def _accepted(self) -> str:
        return f"[{', '.join(str(dim) if isinstance(dim, int) else 'any' for dim in self.dims)}], none of them 0"


def _fits(size: int, dim: int | str | None) -> bool:
    return size == dim if isinstance(dim, int) else size > 0


@dataclass(frozen=True)
class Samples:
    """Inputs that a version is known to run.

    Attributes:
        feeds: arrays by name, the batch first.
    """

    feeds: tuple[Feeds, ...] = ()

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any]) -> Samples:
        """Read a version's recorded inputs, and zeros in the shapes of its warm-up.

        Args:
            config: the model's configuration as Triton gives it to a Python backend.
        """
        return cls((*_recorded(folder), *_warm_ups(config)))

    def range_of(self, name: str, axis: int) -> tuple[int, int] | None:
        """Return the smallest and largest size that an axis has; None where there is no sample."""
        sizes = [feeds[name].shape[axis] for feeds in self.feeds if name in feeds and feeds[name].ndim > axis]
        return (min(sizes), max(sizes)) if sizes else None


def _recorded(folder: Path) -> Iterator[Feeds]:
    if (folder / RECORDED).exists():
        with np.load(folder / RECORDED) as arrays:
            names = [name for name in arrays.files if name.startswith(RECORDED_INPUT)]
            yield {name.removeprefix(RECORDED_INPUT): arrays[name] for name in names}


def _warm_ups(config: Mapping[str, Any]) -> Iterator[Feeds]:
    for sample in config.get("model_warmup", []):
        batch = [int(sample["batch_size"])] if int(config.get("max_batch_size", 0)) else []
        yield {name: _zeros(tensor, batch) for name, tensor in sample["inputs"].items()}


def _zeros(tensor: Mapping[str, Any], batch: list[int]) -> np.ndarray:
    name = tensor["data_type"].removeprefix("TYPE_").lower().replace("fp", "float")
    return np.zeros([*batch, *map(int, tensor["dims"])], np.dtype(_NUMPY_NAMES.get(name, name)))


class GraphInputs:
    """The inputs of one version's graph.

    Args:
        nodes: ONNX Runtime's `get_inputs()`.
        samples: what the version is known to run.
    """

    def __init__(self, nodes: Sequence[Any], samples: Samples = Samples()):
        self.inputs = [GraphInput.of(node) for node in nodes]
        self._samples = samples
        self._is_sound = False

    def check(self, feeds: Feeds) -> None:
        """Raise InputError if the graph cannot take `feeds`, whatever they hold."""
        named: dict[str, tuple[str, int]] = {}
        for known in self.inputs:
            array = feeds[known.name]
            known.check(array)
            for dim, size in known.sizes(array).items():
                other, before = named.setdefault(dim, (known.name, size))
                if before != size:
                    raise InputError(f"{dim}: {size} in {known.name}, {before} in {other}; accepted: the same in both")

    def failure(self, error: Exception, feeds: Feeds, run: Run) -> Exception:
        """Return what to answer where a run on `feeds`, which `check` has passed, ended with `error`.

        Args:
            run: the graph; raises where it fails.
        """
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        said = next(iter(str(error).splitlines()), type(error).__name__)
        if reason := self._fault_of_caller(str(error), feeds, run):
            return InputError(f"the model cannot take {shapes}: {reason} ({said})")
        return ModelError(f"the model failed on {shapes}, which it should take: {said}")

    def _fault_of_caller(self, said: str, feeds: Feeds, run: Run) -> str:
        return self._bad_index(said, feeds) or self._unequal_sizes(said, feeds) or self._strange_shape(feeds, run)

    def _bad_index(self, said: str, feeds: Feeds) -> str:
        """An index out of bounds that the caller sent; graphs shift negative ones before they look them up."""
        if not (found := _BAD_INDEX.search(said)):
            return ""
        index, low, high = (None if n is None else int(n) for n in found.groups())
        for name, array in feeds.items():
            if array.dtype not in _INDEX_TYPES:
                continue
            if index in array:
                return f"{name} holds {index}, which is out of bounds"
            if low is not None and high is not None and (beyond := array[(array < low) | (array > high)]).size:
                return f"{name} holds {beyond[0]}; accepted: {max(low, 0)} to {high}"
        return ""

    def _unequal_sizes(self, said: str, feeds: Feeds) -> str:
        """Two sizes that do not go together, and that two of the inputs have where the graph leaves them free."""
        for found in _BAD_SIZES.finditer(said):
            one, two = (int(n) for n in found.groups() if n is not None)
            having = [{k.name for k in self.inputs if n in k.free(feeds[k.name])} for n in (one, two)]
            if all(having) and len(having[0] | having[1]) > 1:
                return f"sizes {one} and {two} of its inputs do not go together"
        return ""

    def _strange_shape(self, feeds: Feeds, run: Run) -> str:
        """A size beyond those of all samples, where the samples are run as ever."""
        for known in self.inputs:
            for axis, size in enumerate(feeds[known.name].shape):
                found = self._samples.range_of(known.name, axis) if axis else None  # Triton bounds the batch.
                if found and not found[0] <= size <= found[1] and self._runs_samples(run):
                    return f"{known.name} has {size} on axis {axis}; known to be accepted: {found[0]} to {found[1]}"
        return ""

    def _runs_samples(self, run: Run) -> bool:
        if not self._is_sound:
            try:
                for feeds in self._samples.feeds:
                    run(feeds)
            except Exception:
                return False
            self._is_sound = True
        return True
