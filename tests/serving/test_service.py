"""The embedded Triton with the shipped models, called as an app calls it."""

from __future__ import annotations

import io
import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from PIL import Image
from reverie_client import Client, ReverieError
from reverie_client.token_text import to_bytes as token_bytes
from tritonclient.grpc import service_pb2, service_pb2_grpc

from imaging import images
from language.tokenizer import load_tokenizer
from serving.text.decoder import positions_of
from serving.triton.server import TritonServer
from tests.bombs import png_claiming
from tests.serving.shipped import FIRST_STYLE, STYLE_INPUT, STYLES, newest

LANGUAGE_MODEL = newest("language_model")
TOKENIZER = load_tokenizer(LANGUAGE_MODEL)
ROOM = positions_of(LANGUAGE_MODEL) - len(TOKENIZER.begin)
"""Tokens of a prompt that the shipped language model sees."""
DREAM = {"size": 200, "num_octave": 2, "iterations": 4, "max_loss": 0.0}
TRANSFER = {"size": 96, "steps": 5}


@pytest.fixture(autouse=True)
def server_survives(server: TritonServer) -> Iterator[None]:
    """No test may end the server: the next ones would fail for it, or pass for the wrong reason."""
    yield
    assert server.poll() is None


def encoded(image: Image.Image, format="png") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def assert_invalid(call, *expected: str) -> None:
    with pytest.raises(ReverieError) as caught:
        call()
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    for text in expected:
        assert text in caught.value.message


def test_every_model_of_the_repository_is_ready(client):
    names = {"style", "stylize", "language_model", "score", "generate", "deepdream", "style_transfer"}
    assert {m.name for m in client.models() if m.state == "READY"} == names
    assert client.ready()


def test_health_and_metrics_are_triton_s(server):
    with urllib.request.urlopen(f"{server.address.http}/v2/health/ready") as reply:
        assert reply.status == 200
    with urllib.request.urlopen(server.address.metrics) as reply:
        assert b"nv_inference_request_success" in reply.read()


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_a_photograph_comes_back_restyled_at_its_size(client, photo, format):
    stylized = images.decode(client.stylize(photo, format=format))
    original = images.decode(photo)
    assert stylized.shape == original.shape
    assert np.abs(stylized.astype(int) - original).mean() > 5


def test_the_styles_are_listed_and_each_paints_otherwise(client, photo):
    assert client.styles() == STYLES
    assert len({client.stylize(photo, style=name, format="png") for name in STYLES}) == len(STYLES) > 1


def test_pictures_of_equal_size_are_batched_and_do_not_move_each_other(client, photo):
    picture = images.resize(images.decode(photo), 96, 96)
    variants = [np.roll(picture, 10 * i, axis=1) for i in range(6)]

    def restyle(image):
        return client.infer("style", {"image": image[None], STYLE_INPUT: FIRST_STYLE}).outputs["stylized"][0]

    alone = [restyle(v) for v in variants]
    together: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda i=i: together.__setitem__(i, restyle(variants[i])), daemon=True)
        for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(6):
        assert np.abs(together[i].astype(int) - alone[i]).max() <= 1


def test_a_continuation_is_streamed_in_pieces(client):
    pieces = list(client.generate("This movie", max_tokens=60, temperature=0.7, seed=5, ignore_eos=True))
    assert len(pieces) >= 2
    assert [p.finish_reason for p in pieces] == [""] * (len(pieces) - 1) + ["length"]
    whole = list(client.generate("This movie", max_tokens=60, temperature=0.7, seed=5, ignore_eos=True, stream=False))
    assert [p.text for p in whole] == ["".join(p.text for p in pieces)]


def test_greedy_continuations_of_one_prompt_are_refused_as_they_would_be_equal(client):
    asked = {"max_tokens": 1, "n": 2, "temperature": 0}
    assert_invalid(lambda: list(client.generate("This movie", **asked)), "n is 2 with temperature 0")


def test_the_temperature_is_obeyed(client):
    def entropy(temperature):
        """In nats, of the first word of 128 continuations."""
        asked = {"max_tokens": 1, "n": 128, "seed": 1, "stream": False, "temperature": temperature}
        counts = np.array(list(Counter(p.text for p in client.generate("This movie is", **asked)).values()))
        return float(-(counts / 128 * np.log(counts / 128)).sum())

    cold, warm, hot = (entropy(t) for t in (0.2, 1.0, 2.0))
    assert 0 < cold < warm - 0.5 < hot - 1 < np.log(128) - 1


def test_continuations_of_one_prompt_are_told_apart_and_report_log_probabilities(client):
    pieces = list(client.generate("This movie", max_tokens=8, n=3, seed=2, logprobs=2, stream=False))
    assert [p.index for p in pieces] == [0, 1, 2]
    assert len({p.text for p in pieces}) == 3
    for piece in pieces:
        assert piece.logprobs is not None
        assert "".join(piece.logprobs["tokens"]) == piece.text
        assert all(value < 0 for value in piece.logprobs["token_logprobs"])
        assert [len(top) for top in piece.logprobs["top_logprobs"]] == [2] * len(piece.logprobs["tokens"])


def test_a_score_is_the_sum_of_its_tokens_and_agrees_with_generation(client):
    (piece,) = client.generate("This movie was", max_tokens=6, temperature=0, logprobs=0, stream=False, ignore_eos=True)
    score = client.score("This movie was" + piece.text)
    assert score.logprob == pytest.approx(sum(score.token_logprobs), rel=1e-4)
    assert len(score.tokens) == len(score.token_logprobs)
    # Generation computes in int8, scoring in float32.
    assert score.token_logprobs[-6:] == pytest.approx(piece.logprobs["token_logprobs"], abs=0.5)


def post(server: TritonServer, path: str, **body: object) -> bytes:
    request = urllib.request.Request(f"{server.address.http}/v2/models/{path}", json.dumps(body).encode())
    return urllib.request.urlopen(request, timeout=30).read()


def test_http_answers_once_or_as_server_sent_events(server, client):
    asked = {"text_input": "This movie", "max_tokens": 40, "temperature": 0.7, "seed": 3, "stop": ["zzz", "qqq"]}
    once = json.loads(post(server, "generate/generate", **asked))
    events = post(server, "generate/generate_stream", **asked, stream=True).decode().split("\n\n")
    pieces = [json.loads(event.removeprefix("data: ")) for event in events if event]
    assert "".join(piece["text_output"] for piece in pieces) == once["text_output"]
    assert pieces[-1]["finish_reason"] == once["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("text", ["café", "日本語 is 🎬", '\x01\x1f " \\ \n', "bytes:\\xc3", "naïve e\u0301 \ufffd"])
def test_answers_over_http_are_json_for_any_text(server, client, text):
    scored = json.loads(post(server, "score/generate", text_input=text))
    tokens = [token_bytes(token) for token in np.atleast_1d(scored["tokens"])]
    assert b"".join(tokens).decode() == text
    assert client.score(text).tokens == tokens
    asked = {"max_tokens": 12, "temperature": 2.0, "seed": 1, "logprobs": 2, "echo": True}
    assert json.loads(post(server, "generate/generate", text_input=text, **asked))["text_output"].startswith(text)


def test_a_client_s_none_is_not_given_and_numpy_s_numbers_are_numbers(client):
    asked = {"max_tokens": 5, "temperature": 0.5, "seed": 3, "logit_bias": {7: 2.0}, "stop": ["zzz"]}
    expected = [p.text for p in client.generate("This movie", **asked, stream=False)]
    as_numpy = {
        "max_tokens": np.int32(5), "temperature": np.float64(0.5), "seed": np.array(3), "stream": np.bool_(False),
        "logit_bias": {np.int64(7): np.float32(2)}, "stop": np.array(["zzz"]), "top_k": None, "logprobs": None,
    }  # fmt: skip
    assert [p.text for p in client.generate(np.str_("This movie"), **as_numpy)] == expected


@pytest.mark.parametrize("stop", ["", [""], ["a", ""], np.array([""])])
def test_an_empty_stop_string_is_refused_however_it_is_sent(client, stop):
    assert_invalid(lambda: list(client.generate("This movie", stop=stop)), "stop")


@pytest.mark.parametrize("stop", [None, [], (), np.array([], str)])
def test_no_stop_strings_are_none(client, stop):
    assert list(client.generate("This movie", max_tokens=2, seed=1, stop=stop))


def test_a_cancelled_stream_ends_and_the_server_goes_on(client):
    with client.generate("This movie", max_tokens=1000, seed=1, ignore_eos=True) as stream:
        next(stream)
    assert list(client.generate("This movie", max_tokens=2, seed=1))


def test_a_seed_gives_the_same_text_alone_and_beside_other_streams(client):
    def text(seed):
        return "".join(p.text for p in client.generate("the plot", max_tokens=25, seed=seed))

    alone = text(11)
    others = [threading.Thread(target=text, args=(i,), daemon=True) for i in range(6)]
    for thread in others:
        thread.start()
    assert text(11) == alone
    for thread in others:
        thread.join()


def test_temperature_zero_is_deterministic_and_high_temperature_is_not(client):
    def texts(temperature):
        return {
            "".join(p.text for p in client.generate("i think", max_tokens=15, temperature=temperature))
            for _ in range(3)
        }

    assert len(texts(0.0)) == 1
    assert len(texts(1.5)) == 3


def test_a_prompt_that_fills_the_context_gets_one_token(client):
    (piece,) = client.generate("good " * 5000, truncate=ROOM, max_tokens=1000, seed=0, stream=False, logprobs=0)
    assert piece.logprobs is not None
    assert len(piece.logprobs["tokens"]) == 1


def test_a_dream_is_streamed_step_by_step(client, photo):
    steps = list(client.dream(photo, preview_every=4, **DREAM))
    assert [s.step for s in steps] == [1, 2, 3, 4, 5, 6, 7, 8, 8]
    assert [s.stage for s in steps[:-1]] == [0] * 4 + [1] * 4
    assert [bool(s.image) for s in steps] == [False] * 3 + [True] + [False] * 3 + [True, True]
    assert steps[-1].done
    assert images.decode(steps[-1].image).shape == images.fit_within(images.decode(photo), 200).shape


def test_a_transfer_is_streamed_and_its_loss_falls(client, photo):
    style = images.encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    steps = list(client.transfer(photo, style, **TRANSFER))
    assert [s.step for s in steps] == [1, 2, 3, 4, 5, 5]
    assert steps[4].loss < steps[0].loss
    assert max(images.decode(steps[-1].image).shape) == 96


def test_a_cancelled_dream_frees_the_server_for_the_next(client, photo):
    long_job = DREAM | {"iterations": 1000}
    streams = [client.dream(photo, **long_job) for _ in range(2)]
    for stream in streams:
        next(stream)
        stream.cancel()
        assert list(stream) == []
    # Both workers were busy for minutes; an answer now shows that they are free.
    assert list(client.dream(photo, timeout=60, **DREAM))[-1].done


def test_a_deadline_ends_a_stream_with_its_status(client, photo):
    with pytest.raises(ReverieError) as caught:
        list(client.dream(photo, timeout=1.0, **(DREAM | {"iterations": 1000})))
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


BAD_PICTURES = {
    "not an image": (b"nonsense", "not an image; accepted: png, jpeg, webp"),
    "empty": (b"", "0 bytes that are not an image"),
    "1x1": (encoded(Image.new("RGB", (1, 1))), "1x1 pixels; accepted: sides of 16"),
    "20000x20000": (png_claiming(20000, 20000), "20000x20000 pixels; accepted"),
    "truncated": (encoded(Image.effect_noise((64, 64), 50))[:900], "cannot be decoded"),
}


@pytest.mark.parametrize("kind", BAD_PICTURES)
@pytest.mark.parametrize("endpoint", ["stylize", "dream", "transfer", "transfer's style"])
def test_a_bad_picture_is_an_invalid_argument(client, photo, kind, endpoint):
    data, message = BAD_PICTURES[kind]
    calls = {
        "stylize": lambda: client.stylize(data),
        "dream": lambda: list(client.dream(data)),
        "transfer": lambda: list(client.transfer(data, photo)),
        "transfer's style": lambda: list(client.transfer(photo, data)),
    }
    assert_invalid(calls[endpoint], message)
    assert client.ready()


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"temperature": float("nan")}, ("temperature", "nan", "finite")),
        ({"temperature": -0.5}, ("temperature", "-0.5", "greater than or equal to 0")),
        ({"temperature": 9.0}, ("temperature", "9.0", "less than or equal to 2")),
        ({"max_tokens": -1}, ("max_tokens", "-1", "greater than or equal to 1")),
        ({"max_tokens": "many"}, ("max_tokens", "'many'", "integer")),
        ({"top_k": -2}, ("top_k", "-2")),
    ],
)
def test_a_bad_sampling_parameter_is_named_with_what_is_accepted(client, parameters, expected):
    assert_invalid(lambda: list(client.generate("this movie", **parameters)), *expected)


def test_an_unknown_parameter_is_answered_with_those_there_are(client):
    tensors = {"text_input": np.array([b"this movie"], np.object_)}
    assert_invalid(
        lambda: list(client.stream("generate", tensors, {"temprature": 1.0}, lambda arrays: [arrays])),
        "temprature: unknown parameter; accepted: echo, frequency_penalty",
    )


@pytest.mark.parametrize("prompt", ["word " * 300, "word " * 5000])
def test_an_over_long_prompt_is_answered_with_the_numbers(client, prompt):
    assert_invalid(lambda: list(client.generate(prompt)), f"to {ROOM} tokens", "truncate")


def test_a_megabyte_of_text_is_refused_or_cut_where_asked(client):
    assert_invalid(lambda: list(client.generate("x " * 500_000)), "1000000 bytes")
    assert list(client.generate("x " * 500_000, truncate=5, max_tokens=2))


@pytest.mark.parametrize("prompt", ["\U0001f600 smile", "a\x00b", "سلام دنیا", "\u202eabc"])
def test_strange_text_is_not_a_failure(client, prompt):
    assert list(client.generate(prompt, max_tokens=2))


def test_text_that_is_not_utf8_is_an_invalid_argument(client):
    tensor = np.array([b"\xff\xfe"], dtype=np.object_)
    assert_invalid(lambda: list(client.stream("generate", {"text_input": tensor}, {}, dict)), "text_input: not UTF-8")


def test_an_unknown_style_is_answered_with_those_there_are(client, photo):
    assert_invalid(lambda: client.stylize(photo, style="mona_lisa"), "'mona_lisa' is unknown; accepted: starry_night, ")


def test_an_unknown_layer_or_extractor_is_answered_with_those_there_are(client, photo):
    assert_invalid(
        lambda: list(client.dream(photo, layers="mixed99=1")), "'mixed99' is not in compact; accepted: block1_conv1"
    )
    assert_invalid(lambda: list(client.dream(photo, features="resnet")), "accepted: vgg19, inception_v3, compact")
    assert_invalid(lambda: list(client.dream(photo, features="inception_v3")), "reverie weights inception_v3")


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"iterations": -3}, "iterations: -3"),
        ({"step": float("inf")}, "step: inf"),
        ({"num_octave": 99}, "num_octave: 99"),
    ],
)
def test_a_bad_dream_parameter_is_named(client, photo, parameters, expected):
    assert_invalid(lambda: list(client.dream(photo, **parameters)), expected)


def test_a_negative_step_count_of_a_transfer_is_named(client, photo):
    assert_invalid(lambda: list(client.transfer(photo, photo, steps=-1)), "steps: -1")


@pytest.mark.parametrize(
    "inputs",
    [
        {"image": np.zeros((1, 32, 32, 3), np.float32), STYLE_INPUT: FIRST_STYLE},
        {"image": np.zeros((1, 32, 32, 4), np.uint8), STYLE_INPUT: FIRST_STYLE},
        {"image": np.zeros((32, 32, 3), np.uint8), STYLE_INPUT: FIRST_STYLE},
        {"image": np.zeros((1, 32, 32, 3), np.uint8), STYLE_INPUT: np.ones((1, 7), np.float32)},
        {"image": np.zeros((1, 32, 32, 3), np.uint8)},
        {"image": np.zeros((1, 1, 1, 3), np.uint8), STYLE_INPUT: FIRST_STYLE},
        {"image": np.zeros((1, 5000, 5000, 3), np.uint8), STYLE_INPUT: FIRST_STYLE},
    ],
    ids=["dtype", "channels", "rank", "weights", "missing", "1x1", "too large"],
)
def test_a_wrong_tensor_is_an_invalid_argument(client, inputs):
    assert_invalid(lambda: client.infer("style", inputs))
    assert client.ready()


def test_bad_requests_do_not_disturb_a_stream_that_runs_beside_them(server, client, photo):
    expected = "".join(p.text for p in client.generate("the story", max_tokens=60, seed=4))
    with Client(server.address.grpc) as vandal:
        pieces = []
        for piece in client.generate("the story", max_tokens=60, seed=4):
            pieces.append(piece.text)
            for call in (lambda: vandal.stylize(b"x"), lambda: list(vandal.generate("", temperature=-1.0))):
                with pytest.raises(ReverieError):
                    call()
    assert "".join(pieces) == expected


def fail_streams(address: str, times: int) -> list[grpc.StatusCode]:
    """The statuses of as many streams that generate refuses."""
    statuses = []
    with Client(address) as vandal:
        for _ in range(times):
            with pytest.raises(ReverieError) as caught:
                list(vandal.generate("", temperature=-1.0))
            statuses.append(caught.value.code)
    return statuses


@pytest.mark.slow
def test_two_thousand_failed_streams_disturb_neither_the_server_nor_a_good_stream(server, client):
    # With the header triton_grpc_error, one in about 500 of them ended the server.
    def text():
        return "".join(p.text for p in client.generate("the story", max_tokens=60, seed=4))

    expected = text()
    with ThreadPoolExecutor(4) as pool:
        vandals = [pool.submit(fail_streams, server.address.grpc, 500) for _ in range(4)]
        while not all(v.done() for v in vandals):
            assert text() == expected
    statuses = Counter(status for v in vandals for status in v.result())
    assert statuses == {grpc.StatusCode.INVALID_ARGUMENT: 2000}
    assert client.ready()


class Recorder(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A server that answers once it is told to, and notes what Triton would have seen of the calls."""

    def __init__(self):
        self.may_answer = threading.Event()
        self.seconds_left: list[float] = []
        self.headers: set[str] = set()

    def ModelInfer(self, request, context):
        self.may_answer.wait(10)
        self.seconds_left.append(context.time_remaining())
        return service_pb2.ModelInferResponse()

    def ModelStreamInfer(self, requests, context):
        self.headers = {key for key, _ in context.invocation_metadata()}
        yield service_pb2.ModelStreamInferResponse(error_message="UNAVAILABLE: later: please")


@pytest.fixture
def recorder() -> Iterator[tuple[Recorder, Client]]:
    """A recorder, and a client of it."""
    # One worker: calls are answered in order.
    listener, servicer = grpc.server(ThreadPoolExecutor(1)), Recorder()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, listener)
    port = listener.add_insecure_port("127.0.0.1:0")
    listener.start()
    with Client(f"127.0.0.1:{port}", retry=None) as client:
        yield servicer, client
    listener.stop(None).wait()


def test_a_caller_who_gives_up_does_not_cancel_the_call_on_the_server(recorder):
    # Triton 2.51 can crash if it answers at the moment at which a call that answers once is cancelled.
    servicer, client = recorder
    with pytest.raises(ReverieError) as caught:
        client.infer("any", {}, timeout=0.1)
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    servicer.may_answer.set()
    client.infer("any", {})  # Answered after the one that was given up.
    assert servicer.seconds_left[0] > 1


def test_a_stream_s_error_is_read_without_asking_triton_for_its_status(recorder):
    servicer, client = recorder
    with pytest.raises(ReverieError) as caught:
        list(client.stream("any", {}, {}, dict))
    assert (caught.value.code, caught.value.message) == (grpc.StatusCode.UNAVAILABLE, "later: please")
    assert "triton_grpc_error" not in servicer.headers


def test_a_missing_model_is_not_found(client):
    with pytest.raises(ReverieError) as caught:
        client.infer("nothing", {"x": np.zeros((1, 1), np.float32)})
    assert "'nothing' is not found" in caught.value.message
    assert caught.value.code == grpc.StatusCode.NOT_FOUND
    assert client.ready()
