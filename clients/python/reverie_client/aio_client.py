"""The asyncio twin of `client.py`, made from it by `make_aio.py`: change that one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Literal

import numpy as np

from reverie_client import requests, results
from reverie_client.aio_admin import AsyncAdmin
from reverie_client.aio_transport import AsyncConnection, AsyncStream
from reverie_client.credentials import Tls
from reverie_client.messages import Parameter, to_request
from reverie_client.results import Arrays, Health, Inference, ModelStatus, PictureStep, Score, TextDelta
from reverie_client.retries import Retry
from reverie_client.settings import CallMetadata, Settings
from reverie_client.transport import Message

_RETRY = Retry()


class AsyncClient:
    """A connection to one server; for the event loop in which it is first used.

    Parameters of a request that are not given, or are None, are not sent: the server's defaults are those shown.

    Args:
        address: host and port of the gRPC endpoint. This machine's is reached directly; another one's through the
            proxy that gRPC finds in the environment.
        timeout: default deadline of every call, in seconds; a stream's covers the whole stream.
        control_key: what a server asks for where models are loaded; default: $REVERIE_CONTROL_KEY, else, for a server
            on this machine, the one that it left for its user (`reverie_client.control_keys`). Sent with `models` and
            `admin.load` only; "" sends none.
        api_key: what a server that knows its callers asks for; default: $REVERIE_API_KEY; "" sends none. Either may
            be in a file instead, which $REVERIE_API_KEY_FILE or $REVERIE_CONTROL_KEY_FILE names.
        tls: for a server with TLS; default: of $REVERIE_TLS_CA, $REVERIE_TLS_CERT and $REVERIE_TLS_KEY.
        name: of this client, for the server's limits of one client; default: $REVERIE_CLIENT, else none.
        retry: how calls that a server could not take are sent again; None for never.
        call_metadata: asked at each call for what is sent with it beside the keys: for whom a gateway calls.

    Attributes:
        admin: loading, labels and probes, for whoever runs the server.

    Raises:
        InvalidArgument: `address` is an IPv6 address without brackets, and so could be with or without a port.
        SecurityError: a certificate is missing, or a key is empty in the environment, or no header can carry it.

    Example:
        >>> async with AsyncClient("127.0.0.1:8001") as client:        # doctest: +SKIP
        ...     async for delta in client.generate("This movie", temperature=0.7):
        ...         print(delta.text, end="", flush=True)
    """

    def __init__(
        self,
        address: str = "127.0.0.1:8001",
        timeout: float = 120.0,
        control_key: str | None = None,
        api_key: str | None = None,
        tls: Tls | None = None,
        name: str | None = None,
        retry: Retry | None = _RETRY,
        call_metadata: CallMetadata = None,
    ):
        settings = Settings(address, timeout, control_key, api_key, tls, name, retry, call_metadata)
        self._connection = AsyncConnection(settings)
        self._calls = self._connection.calls
        self.admin = AsyncAdmin(self._connection)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; running streams end, and calls that were given up have 10 s to."""
        await self._connection.close()

    async def stylize(
        self,
        image: bytes,
        *,
        timeout: float | None = None,
        style: str = "",
        styles: Mapping[str, float] | None = None,
        style_vector: Sequence[float] | np.ndarray | None = None,
        strength: float = 1.0,
        preserve_colors: bool = False,
        format: Literal["same", "png", "jpeg", "webp"] = "same",
        quality: int = 92,
        size: int = 1024,
        detail: float = 1.0,
        style_network: str = "",
        provenance: bool = True,
    ) -> bytes:
        """Restyle a picture file with the fast network; more: docs/stylize.md.

        Args:
            image: PNG, JPEG or WebP bytes.
            timeout: seconds for the answer; None for the client's own.
            style: name of a style; empty takes the model's first.
            styles: a blend instead, weights by name of the style.
            style_vector: a style of your own instead of a named one: what an exported style holds, or a weighted sum of such.
            strength: from the photograph, 0, to the whole style, 1.
            preserve_colors: take only the lightness from the painting.
            format: of the result; "same" is the photograph's own.
            quality: of jpeg and webp, 1 to 100.
            size: longer side of the result in pixels, at most; 16 to 8192.
            detail: restyle at 1 to 2 times that size and bring back: finer strokes.
            style_network: what `style_vector` was made for; where another network is served, the call is refused.
            provenance: the result says in its XMP how it was made.

        Returns:
            The encoded result.

        Raises:
            ReverieError: a class for each status, see `reverie_client.errors`; so do the other methods.
        """
        parameters = requests.given(_DEFAULTS["stylize"], locals())
        request = requests.stylize(image, style_vector, parameters)
        answer = await self._connection.run(self._calls.infer(request, timeout=timeout))
        return answer.outputs["stylized"].item()

    def generate(
        self,
        prompt: str,
        *,
        timeout: float | None = None,
        max_tokens: int = 16,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        logit_bias: Mapping[int, float] | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        n: int = 1,
        logprobs: int | None = None,
        echo: bool = False,
        stream: bool = True,
        truncate: int | None = None,
        ignore_eos: bool = False,
    ) -> AsyncStream[TextDelta]:
        """Continue `prompt`, piece by piece; more: docs/generate.md.

        Args:
            prompt: the text to continue.
            timeout: seconds for the whole stream; None for the client's own.
            max_tokens: tokens to add at most.
            temperature: 0 takes the most probable token, 1 is the model's own distribution; up to 2.
            top_k: sample from the k most probable tokens; 0 from all.
            top_p: sample from the most probable tokens that together reach this probability.
            min_p: sample from tokens at least this share as probable as the most probable one.
            repetition_penalty: above 1 makes tokens of the prompt and the text less likely.
            frequency_penalty: subtracted from a token's logit for every time it is in the text.
            presence_penalty: subtracted from a token's logit if it is in the text.
            logit_bias: token ids and what is added to their logits, -100 to 100.
            stop: the text ends before the first of these strings.
            seed: the same seed gives the same text; None draws one.
            n: continuations; `TextDelta.index` tells them apart.
            logprobs: report log-probabilities of the chosen and of so many of the likeliest tokens.
            echo: put the prompt before the text.
            stream: in pieces as the text grows; the client's own default, the server's is once and whole.
            truncate: keep only the last so many tokens of the prompt; None refuses a long prompt.
            ignore_eos: never end before max_tokens.

        Returns:
            Pieces; leaving them stops the server.
        """
        parameters = requests.given(_DEFAULTS["generate"], locals())
        return self._connection.stream(requests.generate(prompt, parameters), results.to_text_deltas, timeout)

    async def score(self, text: str, *, timeout: float | None = None) -> Score:
        """Return how probable `text` is under the language model.

        Args:
            text: what is scored.
            timeout: seconds for the answer; None for the client's own.
        """
        return results.to_score(
            await self._connection.run(self._calls.infer(requests.score(text), timeout=timeout)),
        )

    def dream(
        self,
        image: bytes,
        guide_image: bytes | None = None,
        *,
        timeout: float | None = None,
        recipe: Literal["forms", "book"] = "forms",
        layers: str | Mapping[str, float] | None = None,
        step: float | None = None,
        num_octave: int | None = None,
        octave_scale: float = 1.4,
        iterations: int | None = None,
        max_loss: float | None = None,
        features: str = "auto",
        size: int = 1024,
        preview_every: int = 0,
        jitter: int | None = None,
        tile: int = 0,
        smooth: float | None = None,
        strength: float = 1.0,
        preserve_colors: bool = False,
        frames: int = 1,
        zoom: float = 1.05,
        precision: Literal["auto", "float32", "bfloat16"] | None = None,
        max_seconds: float = 0.0,
        seed: int = 0,
        format: Literal["png", "jpeg", "webp", "raw"] = "png",
        preview_size: int = 0,
        provenance: bool = True,
    ) -> AsyncStream[PictureStep]:
        """DeepDream on a picture file; more: docs/dream.md.

        Args:
            image: PNG, JPEG or WebP bytes.
            guide_image: a picture file whose forms the dream takes up.
            timeout: seconds for the whole stream; None for the client's own.
            recipe: "forms" or "book"; decides whatever is None here.
            layers: weights by layer, or "name=weight, name:channel=weight"; None for the extractor's own.
            step: length of an ascent step, for pixels in [-1, 1]; None: the recipe's.
            num_octave: sizes to dream at; 0 as many as the picture has room for; None: the recipe's.
            octave_scale: ratio between neighboring sizes.
            iterations: steps an octave; None: the recipe's.
            max_loss: an octave ends above this loss; 0 never; None: the recipe's.
            features: extractor: "auto", "vgg19", "inception_v3" or "compact".
            size: longer side of the result in pixels, at most.
            preview_every: steps between previews; 0 for none.
            jitter: roll the picture by up to so many pixels in each step; None: the recipe's.
            tile: side of the tiles of a large picture in pixels; 0 chooses.
            smooth: blur mixed into the gradient, in pixels; None: the recipe's.
            strength: of the change: 0 the photograph, 1 the dream, above it exaggerates.
            preserve_colors: dream in luminance only; the picture keeps its colors.
            frames: pictures of a zoom sequence.
            zoom: from one frame to the next.
            precision: of the convolutions; "auto" is the faster; None: the recipe's.
            max_seconds: take the picture so far after this time; 0: the server's limit.
            seed: of the jitter and of the tiles' positions.
            format: of the result; "raw" is its pixels, see `PictureStep.shape`.
            preview_size: longer side of a preview in pixels, at most; 0 for the full size.
            provenance: pictures say in their XMP how they were made.

        Returns:
            Steps, the last of them with the result; leaving them stops the server.
        """
        parameters = requests.given(_DEFAULTS["dream"], locals())
        request = requests.dream(image, guide_image, parameters)
        return self._connection.stream(request, results.to_picture_steps, timeout)

    def transfer(
        self,
        image: bytes,
        style_image: bytes | Sequence[bytes],
        style_mask: bytes | Sequence[bytes] | None = None,
        *,
        timeout: float | None = None,
        recipe: Literal["balanced", "book"] = "balanced",
        steps: int = 100,
        optimizer: Literal["lbfgs", "sgd", "adam"] = "lbfgs",
        learning_rate: float = 0.0,
        content_weight: float | None = None,
        style_weight: float = 1e-6,
        total_variation_weight: float = 1e-6,
        style_layers: str | Mapping[str, float] | None = None,
        content_layers: str | Mapping[str, float] | None = None,
        style_weights: str | Sequence[float] | None = None,
        style_scale: float = 1.0,
        pooling: Literal["max", "average"] = "max",
        bounded: bool | None = None,
        preserve_colors: bool = False,
        initial: Literal["content", "style", "noise"] = "content",
        scales: int = 0,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        features: str = "auto",
        size: int = 400,
        preview_every: int = 0,
        max_seconds: float = 0.0,
        seed: int = 0,
        format: Literal["png", "jpeg", "webp", "raw"] = "png",
        preview_size: int = 0,
        provenance: bool = True,
    ) -> AsyncStream[PictureStep]:
        """Paint a picture in the style of others by Gatys' optimization; more: docs/transfer.md.

        Args:
            image: PNG, JPEG or WebP bytes.
            style_image: one picture file, or several.
            style_mask: none, or a picture file for each style image: white is where it belongs.
            timeout: seconds for the whole stream; None for the client's own.
            recipe: "balanced" or "book"; decides whatever is None here.
            steps: iterations of the optimizer, at all sizes together.
            optimizer: "lbfgs", "sgd" (the book's schedule) or "adam".
            learning_rate: of sgd and adam; 0 chooses.
            content_weight: how much of the picture is kept; None: the recipe's.
            style_weight: how much of the style is taken.
            total_variation_weight: how smooth the result is.
            style_layers: weights by layer, or "name=weight, ..."; None for the book's.
            content_layers: weights by layer, or "name=weight, ..."; None for the book's.
            style_weights: share of each style image, in their order; None gives all the same.
            style_scale: size of the style image over the picture's; above 1 gives larger strokes.
            pooling: "max" as in VGG19, or "average".
            bounded: keep every pixel in [0, 255] in every step; None: the recipe's.
            preserve_colors: paint in luminance only; the picture keeps its colors.
            initial: start from "content", "style" or "noise".
            scales: sizes, each twice the one before; 0 chooses.
            precision: of the convolutions before the last steps; "auto" is the faster.
            features: extractor: "auto", "vgg19" or "compact".
            size: longer side of the result in pixels.
            preview_every: steps between previews; 0 for none.
            max_seconds: take the best picture after this time; 0: the server's limit.
            seed: of the noise.
            format: of the result; "raw" is its pixels, see `PictureStep.shape`.
            preview_size: longer side of a preview in pixels, at most; 0 for the full size.
            provenance: pictures say in their XMP how they were made.

        Returns:
            Steps, the last of them with the result; leaving them stops the server.
        """
        parameters = requests.given(_DEFAULTS["transfer"], locals())
        request = requests.transfer(image, style_image, style_mask, parameters)
        return self._connection.stream(request, results.to_picture_steps, timeout)

    async def styles(self) -> list[str]:
        """Return the names of the styles that `stylize` knows: the network's, of which the first is the default, then this
        client's own and everybody's in the server's library.
        """
        return await self._connection.run(self._calls.styles())

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, np.ndarray],
        parameters: Mapping[str, Parameter] | None = None,
        version: str = "",
        timeout: float | None = None,
        label: str = "",
    ) -> Inference:
        """Call any model that answers once, with arrays.

        Args:
            model: its name.
            inputs: arrays by name; object arrays of bytes for BYTES.
            parameters: of the request; None is as good as not given.
            version: a number; or
            timeout: seconds for the answer; None for the client's own.
            label: a name for one ("stable", "canary", ...). With neither, the stable version answers, or for
                the share of the calls that a canary is given, that one; of a model without labels the newest.
        """
        request = to_request(model, inputs, parameters or {}, version)
        return await self._connection.run(self._calls.infer(request, label, timeout))

    def stream(
        self,
        model: str,
        inputs: Mapping[str, np.ndarray],
        parameters: Mapping[str, Parameter],
        parse: Callable[[Arrays], list[Message]],
        timeout: float | None = None,
    ) -> AsyncStream[Message]:
        """Call any decoupled model; `parse` turns one response's arrays into messages."""
        return self._connection.stream(to_request(model, inputs, parameters), parse, timeout)

    async def models(self) -> list[ModelStatus]:
        """Return every version that the server knows; asks for the control key."""
        return await self._connection.run(self._calls.models())

    async def health(self, timeout: float = 5.0) -> Health:
        """Return whether the server answers and has all its models; an unreachable one does not raise."""
        return await self._connection.run(self._calls.health(timeout))

    async def ready(self, timeout: float = 2.0) -> bool:
        """Return whether the server answers and has loaded its models; of one version see `models`."""
        return await self._connection.run(self._calls.ready(timeout))


_WITH_PARAMETERS = ("stylize", "generate", "dream", "transfer")
_DEFAULTS = {name: requests.defaults_of(getattr(AsyncClient, name)) for name in _WITH_PARAMETERS}
"""Read once, so that whoever wraps a method for his own ends does not change what is sent."""
