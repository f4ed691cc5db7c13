"""Run the decode graph of a language model for many sequences at once, each with a cache of its own.

The contract with the graph stands in `export/language_model/decode.py`. Knows token ids only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from language.sampling import FINE_GROUP
from reverie.onnx_sessions import open_session

PREFILL_CHUNK = 64
"""Prompt tokens that are taken in at once; borders are at multiples of it, whatever else is running."""


class Decoder:
    """Caches for `slots` sequences, and one step of all of them.

    Args:
        folder: a version of `language_model`, with `decode_<precision>.onnx` and `prefill_<precision>.onnx`.
        precision: "int8", "float16" or "float32".
        slots: sequences at most.
        threads: that a step uses; 0 for one a core.
        alone_threads: that the step of a lone sequence may use; 0 for one a core.

    Attributes:
        positions: longest sequence.
        width: columns of the logits, padding included.
    """

    def __init__(
        self, folder: Path, precision: str = "int8", slots: int = 32, threads: int = 1, alone_threads: int = 0
    ):
        self.slots = slots
        self._decode = _session(folder / f"decode_{precision}.onnx", threads)
        self._alone = (
            self._decode if alone_threads == threads else _session(folder / f"decode_{precision}.onnx", alone_threads)
        )
        self._prefill = _session(folder / f"prefill_{precision}.onnx", threads)
        self._caches = {
            i.name.removeprefix("past/"): np.zeros((slots, *i.shape[1:]), _DTYPES[i.type])
            for i in self._decode.get_inputs()
            if i.name.startswith("past/")
        }
        self.positions = next(iter(self._caches.values())).shape[2]
        self.width = next(o.shape[2] for o in self._decode.get_outputs() if o.name == "logits")
        self._tokens = np.zeros((slots, 1), np.int32)
        self._places = np.zeros((slots, 1), np.int32)
        self._seqlens = np.zeros(slots, np.int32)
        self._total = np.zeros((), np.int32)
        self._outputs = {
            "logits": np.zeros((slots, 1, self.width), np.float32),
            "maxima": np.zeros((slots, 1, self.width // FINE_GROUP), np.float32),
        }
        self._bindings: dict[tuple[int, int, bool], ort.IOBinding] = {}

    def prefill(self, slot: int, tokens: Sequence[int], start: int = 0) -> None:
        """Put `tokens` into the cache of `slot` from position `start` on; at most `PREFILL_CHUNK` at a time."""
        for first in range(0, len(tokens), PREFILL_CHUNK):
            self._prefill_chunk(slot, tokens[first : first + PREFILL_CHUNK], start + first)

    def step(
        self, tokens: np.ndarray, positions: np.ndarray, alone: bool = False, first: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take one token into each of `len(tokens)` neighboring slots.

        Taking the same token at the same position again changes nothing.

        Args:
            tokens: int (n,), the newest token of every slot.
            positions: int (n,), where it stands; each below `positions` of the decoder.
            alone: nothing else runs, so all cores may be used.
            first: the slot that they begin at.

        Returns:
            float32 (n, width), the logits of the token after it; and float32 (n, width / `FINE_GROUP`), the
            largest of every group of them. The next call overwrites both.
        """
        rows = slice(first, first + len(tokens))
        self._tokens[rows, 0] = tokens
        self._places[rows, 0] = self._seqlens[rows] = positions
        self._total[...] = positions.max() + 1
        session, key = self._alone if alone else self._decode, (first, len(tokens), alone)
        if key not in self._bindings:
            self._bindings[key] = self._bind_step(session, rows)
        session.run_with_iobinding(self._bindings[key])
        return self._outputs["logits"][rows, 0], self._outputs["maxima"][rows, 0]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot's cache to another's."""
        for cache in self._caches.values():
            cache[target, :, :length] = cache[source, :, :length]

    def _prefill_chunk(self, slot: int, tokens: Sequence[int], start: int) -> None:
        end = start + len(tokens)
        feeds = {
            "token_ids": np.array([tokens], np.int32),
            "positions": np.arange(start, end, dtype=np.int32)[None],
            "seqlens_k": np.array([end - 1], np.int32),
            "total_sequence_length": np.array(end, np.int32),
        }
        binding = self._bind(self._prefill, feeds, slice(slot, slot + 1))
        self._prefill.run_with_iobinding(binding)

    def _bind_step(self, session: ort.InferenceSession, rows: slice) -> ort.IOBinding:
        feeds = {
            "token_ids": self._tokens[rows],
            "positions": self._places[rows],
            "seqlens_k": self._seqlens[rows],
            "total_sequence_length": self._total,
        }
        binding = self._bind(session, feeds, rows)
        for name, whole in self._outputs.items():
            array = whole[rows]
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding

    def _bind(self, session: ort.InferenceSession, feeds: dict[str, np.ndarray], slots: slice) -> ort.IOBinding:
        """Inputs and outputs in our own memory; a cache's outputs are the cache itself, so nothing is copied."""
        binding = session.io_binding()
        for given in session.get_inputs():
            array = feeds[given.name] if given.name in feeds else self._caches[given.name.removeprefix("past/")][slots]
            binding.bind_input(given.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for output in session.get_outputs():
            if output.name.startswith("present/"):
                array = self._caches[output.name.removeprefix("present/").split("#")[0]][slots]
                binding.bind_output(output.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding


def positions_of(folder: Path) -> int:
    """Longest sequence of the language model in `folder`."""
    graph = onnx.load(folder / "decode_float32.onnx", load_external_data=False).graph
    cache = next(i for i in graph.input if i.name.startswith("past/"))
    return cache.type.tensor_type.shape.dim[2].dim_value


_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def _session(path: Path, threads: int) -> ort.InferenceSession:
    # Without VNNI, sums of products of uint8 and int8 can saturate; this takes a slower kernel that is exact.
    exact = {} if _has_vnni() else {"session.x64quantprecision": "1"}
    # The fused operator takes three times as long as the two that it replaces.
    return open_session(
        path, threads=threads, is_quiet=True, disabled_optimizers=["SkipLayerNormFusion"], entries=exact
    )


def _has_vnni() -> bool:
    """Whether this processor multiplies 8-bit integers exactly into 32 bits; others than x86 do not need it."""
    try:
        flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return False
    return flags is None or bool({"avx512_vnni", "avx_vnni"} & set(flags[1].split()))
