"""The client: one method an endpoint, deadlines, streams that can be cancelled, one kind of error."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, TypeVar

import grpc
import grpc.experimental
import numpy as np
from google.protobuf.json_format import MessageToJson
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.grpc.model_config_pb2 import ModelConfig

from reverie_client import control_keys, credentials, headers, hosts, proxies
from reverie_client.credentials import Tls
from reverie_client.labels import Labels
from reverie_client.messages import (
    Parameter,
    ParameterError,
    bytes_tensor,
    to_arrays,
    to_bytes,
    to_list,
    to_request,
    to_seconds,
    to_utf8,
)
from reverie_client.token_text import to_bytes as token_bytes

_MAX_MESSAGE = 2**31 - 1
_AFTERMATH_S = 10.0
"""How long a call whose caller has given up may go on; see `Client._call`."""

_LABELS_S = 1.0
"""How long a model's labels are remembered."""
_LABELS_TIMEOUT_S = 5.0
STREAM_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"

Message = TypeVar("Message")


class ReverieError(Exception):
    """A call failed.

    Attributes:
        code: the gRPC status; INVALID_ARGUMENT for the caller's mistakes, UNAUTHENTICATED for a missing or wrong key,
            UNAVAILABLE where trying again later makes sense, DEADLINE_EXCEEDED, CANCELLED, ...
        message: what was wrong, the value, what is accepted.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message

    @classmethod
    def of(cls, error: grpc.RpcError) -> ReverieError:
        """The same error without gRPC's call object."""
        call: Any = error
        return cls._of_triton(call.code(), call.details() or "")

    @classmethod
    def in_band(cls, text: str) -> ReverieError:
        """An error sent as a stream's message: "INVALID_ARGUMENT: ..."; Triton's own have no status: UNKNOWN."""
        name, _, message = text.partition(": ")
        code = grpc.StatusCode.__members__.get(name)
        return cls(code, message) if code else cls._of_triton(grpc.StatusCode.UNKNOWN, text)

    @classmethod
    def _of_triton(cls, code: grpc.StatusCode, message: str) -> ReverieError:
        """Triton's own error; the one about a key comes with a status that would make callers try again."""
        return cls(*(credentials.refusal(message) or (code, message)))


@dataclass(frozen=True)
class TextPiece:
    """A piece of a continuation.

    Attributes:
        finish_reason: "stop", "length" or "cancelled" in a continuation's last piece, else empty.
        index: which of `n` continuations.
        logprobs: where asked for, OpenAI's `tokens`, `token_logprobs` and `top_logprobs` of this piece.
    """

    text: str
    finish_reason: str
    index: int = 0
    logprobs: dict[str, Any] | None = None


@dataclass(frozen=True)
class Score:
    """How probable a text is.

    Attributes:
        logprob: natural logarithm of the text's probability.
        tokens: the scored tokens; a word model gives the first word no probability.
        token_logprobs: of each of them, given those before it.
    """

    logprob: float
    tokens: list[bytes]
    token_logprobs: list[float]


@dataclass(frozen=True)
class PictureStep:
    """A step of a dream or a transfer; see `synthesis.progress.Progress`.

    Attributes:
        step, steps, stage, loss, seconds: where the optimization is.
        image: an encoded preview or frame, or with `done` the result; empty where none was due.
        done: this is the result.
        loss_parts: what the loss is the sum of, by name.
        shape: height, width and 3 of the result, for `format="raw"`: uint8 pixels, row by row.
        frame: above 0 where `image` is this finished frame of a zoom sequence.
        exact: the loss is the whole objective in float32; where not, an estimate in faster arithmetic.
        stopped: "max_seconds" where the time was up and the picture is the best so far, else "".
    """

    step: int
    steps: int
    stage: int
    loss: float
    seconds: float
    image: bytes
    done: bool
    loss_parts: dict[str, float] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    frame: int = 0
    stopped: str = ""
    exact: bool = True


@dataclass(frozen=True)
class ModelStatus:
    """A version of a model in the repository and its state ("READY", "UNAVAILABLE", ...)."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True)
class Inference:
    """An answer: output arrays by name, and the version of the model that computed them."""

    outputs: dict[str, np.ndarray]
    version: str


class Versions:
    """Which version a call goes to: asks for a model's labels, and remembers them for a second.

    Args:
        labels: gives the labels of a model.
    """

    def __init__(self, labels: Callable[[str], Labels]):
        self._labels = labels
        self._known: dict[str, tuple[float, Labels]] = {}

    def choose(self, model: str, label: str = "") -> str:
        """The version to ask for; "", any, where the model has no labels and none was asked for.

        Raises:
            ReverieError: NOT_FOUND, the model has no such label.
        """
        labels = self._of(model)
        version = labels.versions.get(label) if label else labels.sample_version(random.random())
        if label and version is None:
            there = ", ".join(f"{n} ({v})" for n, v in sorted(labels.versions.items())) or "none"
            raise ReverieError(grpc.StatusCode.NOT_FOUND, f"{model} has no label {label!r}; it has: {there}")
        return "" if version is None else str(version)

    def after(self, error: ReverieError, model: str, label: str, tried: str) -> str:
        """Another version to try, if `tried` has gone since its label was looked up; else ""."""
        if error.code is not grpc.StatusCode.UNAVAILABLE and error.code is not grpc.StatusCode.NOT_FOUND:
            return ""
        if "unknown model" not in error.message:
            return ""
        self._known.pop(model, None)
        version = self.choose(model, label)
        return "" if version == tried else version

    def _of(self, model: str) -> Labels:
        looked_up, labels = self._known.get(model, (-_LABELS_S, Labels()))
        if time.monotonic() - looked_up < _LABELS_S:
            return labels
        try:
            labels = self._labels(model)
        except ReverieError:
            labels = Labels()  # The call itself will say what is wrong.
        self._known[model] = (time.monotonic(), labels)
        return labels


class Stream(Generic[Message]):
    """Messages of one request, in order; iterate it, or use it as a context manager to stop it early."""

    def __init__(self, call: Any, parse: Callable[[dict[str, np.ndarray]], list[Message]]):
        self._call = call
        self._parse = parse
        self._messages: deque[Message] = deque()
        self._cancelled = False
        self._ended = False

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        while not self._messages:
            self._messages.extend(self._parse(self._receive()))
        return self._messages.popleft()

    def _receive(self) -> dict[str, np.ndarray]:
        try:
            reply = next(self._call)
        except StopIteration:
            self._ended = True
            raise
        except grpc.RpcError as error:
            self._ended = True
            if self._cancelled:
                raise StopIteration from None
            raise ReverieError.of(error) from None
        if reply.error_message:
            self._drain()
            raise ReverieError.in_band(reply.error_message)
        return to_arrays(reply.infer_response)

    def cancel(self) -> None:
        """Tell the server to stop; iteration then ends. Does nothing to a stream that has ended."""
        if not self._ended:
            self._cancelled = True
            self._call.cancel()

    def _drain(self) -> None:
        """Let the call end by itself: gRPC cancels a call that is dropped, and here Triton is just ending it."""
        self._ended = True
        with contextlib.suppress(grpc.RpcError):
            for _ in self._call:
                pass

    def __enter__(self) -> Stream[Message]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


_BYTES = (bytes, bytearray, memoryview)


@contextlib.contextmanager
def _checked() -> Iterator[None]:
    """What cannot be sent is refused as the server would refuse it."""
    try:
        yield
    except ParameterError as error:
        raise ReverieError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None


class Client:
    """A connection to one server; safe to share between threads.

    Args:
        address: host and port of the gRPC endpoint. This machine's is reached directly; another one's through the
            proxy that gRPC finds in the environment.
        timeout: default deadline of every call, in seconds; a stream's covers the whole stream.
        control_key: what a server asks for where models are loaded; default: $REVERIE_CONTROL_KEY, else, for a server
            on this machine, the one that it left for its user (`reverie_client.control_keys`). Sent with `models` and `load`
            only; "" sends none.
        api_key: what a server that knows its callers asks for; default: $REVERIE_API_KEY; "" sends none. Either may
            be in a file instead, which $REVERIE_API_KEY_FILE or $REVERIE_CONTROL_KEY_FILE names.
        name: of this client, for the server's limits of one client; default: $REVERIE_CLIENT, else none.
        tls: for a server with TLS; default: of $REVERIE_TLS_CA, $REVERIE_TLS_CERT and $REVERIE_TLS_KEY.

    Raises:
        ReverieError: INVALID_ARGUMENT, `address` is an IPv6 address without brackets, and so could be with or without a port.
        SecurityError: a certificate is missing, or a key is empty in the environment, or no header can carry it.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:8001",
        timeout: float = 120.0,
        control_key: str | None = None,
        api_key: str | None = None,
        tls: Tls | None = None,
        name: str | None = None,
    ):
        if hosts.lacks_brackets(address):
            raise ReverieError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"address: {address!r}; accepted: HOST:PORT, an IPv6 address in brackets, as in [::1]:8001",
            )
        options = [
            ("grpc.max_receive_message_length", _MAX_MESSAGE),
            ("grpc.max_send_message_length", _MAX_MESSAGE),
            (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),
            *proxies.channel_options(address),
        ]
        self.timeout = timeout
        self._address = address
        self._metadata = credentials.metadata(
            headers.API_KEY, credentials.clients_key(credentials.API_KEY_VARIABLE, api_key)
        )
        if name := os.environ.get(credentials.CLIENT_VARIABLE, "") if name is None else name:
            self._metadata += ((headers.CLIENT, name),)
        self._may_look_up_control_key = control_key is None
        self._control_key = credentials.clients_key(credentials.CONTROL_KEY_VARIABLE, control_key)
        tls = tls or Tls.from_environment()
        self._channel = (
            grpc.secure_channel(address, tls.credentials(), options) if tls else grpc.insecure_channel(address, options)
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        # Ours send one request a stream. Called as such, gRPC needs no thread to send it and none to receive.
        self._stream = self._channel.unary_stream(
            STREAM_METHOD,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        self._given_up: set[Any] = set()
        self._versions = Versions(self.labels)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; running streams end, and calls that were given up have 10 s to (see `_call`)."""
        for call in tuple(self._given_up):
            call.exception()  # Waits; closing the channel would cancel it.
        self._channel.close()

    def ready(self, timeout: float = 2.0) -> bool:
        """Whether the server answers and has loaded its models; of one version see `models`."""
        try:
            return self._stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=timeout).ready
        except grpc.RpcError:
            return False

    def live(self, timeout: float = 5.0) -> bool:
        """Whether the server answers, its models ready or not."""
        try:
            self.check_live(timeout)
        except ReverieError:
            return False
        return True

    def check_live(self, timeout: float = 5.0) -> None:
        """Raise what keeps the server from answering (ReverieError), if anything does."""
        try:
            is_live = self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=timeout).live
        except grpc.RpcError as error:
            raise ReverieError.of(error) from None
        if not is_live:
            raise ReverieError(grpc.StatusCode.UNAVAILABLE, "the server says that it is not live")

    def models(self) -> list[ModelStatus]:
        """Every version the server knows."""
        index = self._control_call(self._stub.RepositoryIndex, service_pb2.RepositoryIndexRequest()).models
        return [ModelStatus(m.name, m.version, m.state, m.reason) for m in index]

    def load(self, model: str, configuration: ModelConfig | None = None) -> None:
        """Load or reload `model`; requests in flight are finished by the version they began on.

        Args:
            configuration: in place of the one that the repository has.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        if configuration is not None:
            request.parameters["config"].string_param = MessageToJson(configuration)
        self._control_call(self._stub.RepositoryModelLoad, request)

    def labels(self, model: str) -> Labels:
        """The labels of `model`'s versions as the server has them now; none for a model without versions."""
        request = service_pb2.ModelConfigRequest(name=model)
        answer = self._call(self._stub.ModelConfig, request, min(self.timeout, _LABELS_TIMEOUT_S))
        return Labels.of_configuration(answer.config)

    def styles(self) -> list[str]:
        """Names of the styles that `stylize` knows, in the order of the weights of `style`."""
        answer = self._call(self._stub.ModelConfig, service_pb2.ModelConfigRequest(name="style"))
        return answer.config.parameters["styles"].string_value.split(",")

    def infer(
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
            version: a number; or
            label: a name for one ("stable", "canary", ...). With neither, the stable version answers, or for
                the share of the calls that a canary is given, that one; of a model without labels the newest.
        """
        with _checked():
            request = to_request(model, inputs, parameters or {})
        request.model_version = chosen = version or self._versions.choose(model, label)
        try:
            response = self._call(self._stub.ModelInfer, request, timeout)
        except ReverieError as error:
            again = "" if version else self._versions.after(error, model, label, chosen)
            if not again:
                raise
            request.model_version = again
            response = self._call(self._stub.ModelInfer, request, timeout)
        return Inference(to_arrays(response), response.model_version)

    def stylize(
        self,
        image: bytes,
        timeout: float | None = None,
        styles: Mapping[str, float] | None = None,
        **parameters: Parameter,
    ) -> bytes:
        """Restyle a picture file with the fast network.

        Args:
            image: PNG, JPEG or WebP bytes.
            styles: a blend, weights by name of the style.
            parameters: `style`, `strength`, `preserve_colors`, `format`, `quality`, `size`, `detail` and
                `provenance`; see `docs/stylize.md`.

        Returns:
            The encoded result.
        """
        with _checked():
            inputs = {"image": bytes_tensor(to_bytes("image", image))}
        answer = self.infer("stylize", inputs, {"styles": styles, **parameters}, timeout=timeout)
        return answer.outputs["stylized"].item()

    def generate(self, prompt: str, timeout: float | None = None, **parameters: Any) -> Stream[TextPiece]:
        """Continue `prompt`, piece by piece.

        Args:
            parameters: see `docs/generate.md`; `stop` may be a string or a list, `logit_bias` a dict. None is as good
                as not given, here and in the other calls.
        """
        stops = to_list(parameters.pop("stop", None), str)
        with _checked():
            inputs = {"text_input": bytes_tensor(to_utf8("prompt", prompt))}
            if stops:
                inputs["stop"] = np.array([to_utf8("stop", stop) for stop in stops], np.object_)
        if parameters.get("stream") is None:
            parameters["stream"] = True
        return self.stream("generate", inputs, parameters, _to_text_pieces, timeout)

    def score(self, text: str, timeout: float | None = None) -> Score:
        """The log-probability of `text` under the language model."""
        with _checked():
            inputs = {"text_input": bytes_tensor(to_utf8("text", text))}
        outputs = self.infer("score", inputs, timeout=timeout).outputs
        tokens = [token_bytes(token.decode()) for token in outputs["tokens"]]
        return Score(outputs["logprob"].item(), tokens, outputs["token_logprobs"].tolist())

    def dream(
        self, image: bytes, timeout: float | None = None, guide_image: bytes | None = None, **parameters: Parameter
    ) -> Stream[PictureStep]:
        """DeepDream on a picture file; parameters: see `synthesis.deepdream.DeepDreamParameters`."""
        with _checked():
            inputs = {"image": bytes_tensor(to_bytes("image", image))}
            if guide := to_bytes("guide_image", b"" if guide_image is None else guide_image):
                inputs["guide_image"] = bytes_tensor(guide)
        return self.stream("deepdream", inputs, parameters, _to_picture_step, timeout)

    def transfer(
        self,
        image: bytes,
        style_image: bytes | Sequence[bytes],
        timeout: float | None = None,
        style_mask: bytes | Sequence[bytes] | None = None,
        **parameters: Parameter,
    ) -> Stream[PictureStep]:
        """Gatys' style transfer; parameters: see `synthesis.gatys.GatysParameters`.

        Args:
            style_image: one picture file, or several.
            style_mask: none, or a picture file for each style image: white is where it belongs.
        """
        files = {"style_image": to_list(style_image, _BYTES), "style_mask": to_list(style_mask, _BYTES)}
        with _checked():
            inputs = {"image": bytes_tensor(to_bytes("image", image))}
            for name, values in files.items():
                if values or name == "style_image":
                    inputs[name] = np.array([to_bytes(name, value) for value in values], np.object_)
        return self.stream("style_transfer", inputs, parameters, _to_picture_step, timeout)

    def stream(
        self,
        model: str,
        inputs: Mapping[str, np.ndarray],
        parameters: Mapping[str, Parameter],
        parse: Callable[[dict[str, np.ndarray]], list[Message]],
        timeout: float | None = None,
    ) -> Stream[Message]:
        """Call any decoupled model; `parse` turns one response's arrays into messages."""
        # Never with the header `triton_grpc_error`: errors then crash Triton 2.51 (see docs/decisions.md).
        with _checked():
            request = to_request(model, inputs, parameters)
            seconds = to_seconds("timeout", timeout or self.timeout)
        call = self._stream(request, timeout=seconds, metadata=self._metadata)
        return Stream(call, parse)

    def _control_call(self, method: grpc.UnaryUnaryMultiCallable, request: Any) -> Any:
        """Looks the key up anew each time: a server that was started again has another."""
        key = self._control_key
        if key is None and self._may_look_up_control_key:
            key = control_keys.find(self._address)
        return self._call(method, request, metadata=credentials.metadata(headers.CONTROL, key))

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable,
        request: Any,
        timeout: float | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Any:
        """Call and wait; when `timeout` has passed, the caller gives up and the server's answer is thrown away.

        Cancelling instead, as gRPC does at a deadline, crashes Triton 2.51 if it is answering at that moment
        (https://github.com/triton-inference-server/server/issues/7368); streams are not affected.
        """
        with _checked():
            timeout = to_seconds("timeout", timeout or self.timeout)
        call = method.future(request, timeout=timeout + _AFTERMATH_S, metadata=self._metadata + metadata)
        try:
            return call.result(timeout)
        except grpc.FutureTimeoutError:
            self._given_up.add(call)  # gRPC cancels a call that nobody refers to.
            call.add_done_callback(self._given_up.discard)
            raise ReverieError(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {timeout:g} s") from None
        except grpc.RpcError as error:
            raise ReverieError.of(error) from None


def _to_text_pieces(arrays: dict[str, np.ndarray]) -> list[TextPiece]:
    logprobs = arrays.get("logprobs", np.array([b""] * len(arrays["index"]), np.object_))
    columns = zip(arrays["text_output"], arrays["finish_reason"], arrays["index"], logprobs, strict=True)
    return [
        TextPiece(text.decode(), reason.decode(), int(index), json.loads(found) if found else None)
        for text, reason, index, found in columns
    ]


def _to_picture_step(arrays: dict[str, np.ndarray]) -> list[PictureStep]:
    shape, parts = arrays.pop("shape"), arrays.pop("loss_parts").item()
    values: dict[str, Any] = {name: array.item() for name, array in arrays.items()}
    values |= {"shape": tuple(shape.tolist()), "loss_parts": json.loads(parts), "stopped": values["stopped"].decode()}
    return [PictureStep(**values)]
