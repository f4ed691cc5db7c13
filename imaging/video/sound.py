"""The sound of a restyled video: copied where the new file can hold it, else encoded anew as AAC.

What a file can hold is asked before the first frame is made. Knows nothing of pictures.
"""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import Any, Protocol

from imaging.video.video_file import pyav

_MP4 = {"aac", "alac", "ac3", "eac3", "mp3", "mp3float"}
_PLAYED = {".mp4": _MP4, ".m4v": _MP4, ".mov": _MP4}
"""Codecs that players expect in files of an ending; FFmpeg writes some others into them that most cannot play."""
_UNCOMPRESSED = "pcm_"
"""How FFmpeg calls PCM, which QuickTime's files have always held."""
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
"""By number of channels; other numbers become stereo."""
_BIT_RATE_A_CHANNEL = 96_000
_USUAL_RATE = 48_000


class Sound(Protocol):
    """Takes packets of the source and gives those of the result.

    Attributes:
        change: in words what becomes of the sound; empty where it stays as it is.
    """

    change: str

    def convert(self, packet: Any) -> list[Any]:
        """Return the packets to write now."""

    def rest(self) -> list[Any]:
        """Return the last packets."""


def sound_for(stream: Any, writer: Any, ending: str) -> Sound | None:
    """Give `writer`, an open PyAV container, a stream for the sound of `stream`; None if there is none.

    Args:
        ending: of the file that is written.
    """
    if stream is None:
        return None
    if stream.codec_context is None:
        return Dropped(ending)
    if _holds(stream.codec_context.name, writer, ending):
        return Copied(stream, writer)
    return Encoded(stream, writer, ending)


def _holds(codec: str, writer: Any, ending: str) -> bool:
    if codec.startswith(_UNCOMPRESSED) and ending == ".mov":
        return codec in writer.supported_codecs
    # FFmpeg has decoders of other names than the codecs': mp3float.
    return codec in _PLAYED.get(ending, {codec}) and bool(
        {codec, codec.removesuffix("float")} & writer.supported_codecs
    )


class Copied:
    """The same packets, but those whose time goes back, which no file can hold."""

    change = ""

    def __init__(self, stream: Any, writer: Any):
        self._stream = writer.add_stream_from_template(stream)
        self._last: int | None = None

    def convert(self, packet: Any) -> list[Any]:
        if self._last is not None and packet.dts <= self._last:
            return []
        self._last, packet.stream = packet.dts, self._stream
        return [packet]

    def rest(self) -> list[Any]:
        return []


class Dropped:
    """No packets."""

    def __init__(self, ending: str):
        self.change = f"the sound is of a kind that cannot be read; the {ending} file has none"

    def convert(self, packet: Any) -> list[Any]:
        return []

    def rest(self) -> list[Any]:
        return []


class Encoded:
    """AAC, of the same rate and channels where it has them; gaps become silence."""

    def __init__(self, stream: Any, writer: Any, ending: str):
        context = stream.codec_context
        self.change = (
            f"the sound is {context.name}, which {ending} files cannot hold or few players play there; it becomes AAC"
        )
        self._layout = _LAYOUTS.get(context.layout.nb_channels, "stereo")
        rates = pyav().Codec("aac", "w").audio_rates
        self._rate = context.sample_rate if context.sample_rate in rates else _USUAL_RATE
        self._encoder = writer.add_stream("aac", rate=self._rate, layout=self._layout)
        self._encoder.bit_rate = _BIT_RATE_A_CHANNEL * self._encoder.codec_context.layout.nb_channels
        self._encoder.codec_context.time_base = Fraction(1, self._rate)
        self._encoder.codec_context.open()
        self._graph: Any = None

    def convert(self, packet: Any) -> list[Any]:
        return [made for frame in _decoded(packet) for made in self._encode(frame)]

    def rest(self) -> list[Any]:
        ended = self._encode(None) if self._graph else []
        return [*ended, *self._encoder.encode(None)]

    def _encode(self, frame: Any) -> list[Any]:
        self._graph = self._graph or self._graph_for(frame)
        self._graph.push(frame)
        return [packet for frame in _pulled(self._graph) for packet in self._encoder.encode(frame)]

    def _graph_for(self, frame: Any) -> Any:
        """FFmpeg's filters from frames like this one to those that the encoder takes."""
        graph = pyav().filter.Graph()
        source = graph.add_abuffer(
            sample_rate=frame.sample_rate,
            format=frame.format.name,
            layout=_LAYOUTS.get(frame.layout.nb_channels, frame.layout.name),
            time_base=frame.time_base,
        )
        # Without "async" sound after a gap would come too early.
        steps = [
            graph.add("aresample", "async=1"),
            graph.add("aformat", f"sample_fmts=fltp:sample_rates={self._rate}:channel_layouts={self._layout}"),
            graph.add("asetnsamples", f"n={self._encoder.codec_context.frame_size}:p=0"),
        ]
        graph.link_nodes(source, *steps, graph.add("abuffersink")).configure()
        return graph


def _decoded(packet: Any) -> list[Any]:
    """Nothing of a damaged packet."""
    try:
        return packet.decode()
    except pyav().error.FFmpegError:
        return []


def _pulled(graph: Any) -> list[Any]:
    frames = []
    with contextlib.suppress(pyav().error.BlockingIOError, pyav().error.EOFError):
        while True:
            frames.append(graph.pull())
    return frames
