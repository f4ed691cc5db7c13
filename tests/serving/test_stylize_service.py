"""`stylize` in the embedded Triton: blends of several styles, large pictures, requests side by side, a full queue."""

from __future__ import annotations

import json
import struct
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from reverie_client import Client, InvalidArgument, ReverieError

from imaging import images
from registry import configuration
from serving.security import Security
from serving.style.library import StyleLibrary
from serving.style.style_file import StyleFile
from serving.triton.server import TritonServer
from tests.serving.shipped import FIRST_STYLE, STYLE_INPUT
from tests.serving.style_graph import NETWORK, tint, tint_with, with_mirrored_margin, write_repository

WORKERS, WAITING = 2, 4


@pytest.fixture(scope="module")
def small_server(tmp_path_factory):
    """A server with a network of three styles, which are vectors; two workers, and room for four more requests."""
    repository = tmp_path_factory.mktemp("three_styles") / "model_repository"
    write_repository(repository, NETWORK, workers=WORKERS, max_waiting=WAITING)
    with TritonServer(repository, security=Security(http=True), log=repository.parent / "triton.log") as server:
        yield server
        assert server.poll() is None


@pytest.fixture
def three_styles(small_server):
    with Client(small_server.address.grpc, retry=None) as client:
        yield client
        assert client.ready()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 9, width // 9, 3), np.uint8)
    return images.resize(coarse, height, width)


def test_a_blend_of_styles_reaches_the_network(three_styles):
    photo = noise(64, 80)
    answer = images.decode(three_styles.stylize(images.encode(photo), styles={"green": 1, "blue": 3}))
    assert np.abs(answer.astype(int) - with_mirrored_margin(tint, photo, np.array([0, 0.25, 0.75]))).max() <= 1


def test_a_vector_of_one_s_own_is_a_style_over_grpc_and_http(small_server, three_styles):
    photo, pink = noise(64, 80), [90.0, 40.0, 60.0]
    data, expected = images.encode(photo), with_mirrored_margin(tint_with, photo, np.array(pink))
    answer = images.decode(three_styles.stylize(data, style_vector=pink, style_network=NETWORK))
    assert np.abs(answer.astype(int) - expected).max() <= 1
    vector = {"name": "style_vector", "shape": [3], "datatype": "FP32", "data": pink}
    # What is no text travels as binary data: http://127.0.0.1/... with a header that says how long the JSON is.
    head = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data) + 4}}
    asked = {"inputs": [head, vector], "outputs": [{"name": "stylized", "parameters": {"binary_data": True}}]}
    body = json.dumps(asked).encode()
    request = urllib.request.Request(
        f"{small_server.address.http}/v2/models/stylize/infer",
        body + struct.pack("<I", len(data)) + data,
        {"Inference-Header-Content-Length": str(len(body))},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        told = int(reply.headers["Inference-Header-Content-Length"])
        picture = reply.read()[told + 4 :]
    assert np.abs(images.decode(picture).astype(int) - expected).max() <= 1


def test_a_style_that_comes_into_the_library_is_known_at_once_and_to_its_owner_alone(small_server, three_styles):
    photo, pink = noise(64, 80), np.array([90, 40, 60], np.float32)
    library = StyleLibrary(small_server.repository)
    with Client(small_server.address.grpc, name="museum", retry=None) as museum:
        assert museum.styles() == ["red", "green", "blue"]
        library.add(StyleFile.of("pink", NETWORK, pink), owner="museum")
        assert museum.styles() == ["red", "green", "blue", "pink"]
        answer = images.decode(museum.stylize(images.encode(photo), style="pink"))
        assert np.abs(answer.astype(int) - with_mirrored_margin(tint_with, photo, pink)).max() <= 1
        assert three_styles.styles() == ["red", "green", "blue"]
        with pytest.raises(InvalidArgument, match=r"style: 'pink' is unknown; accepted: red, green, blue$"):
            three_styles.stylize(images.encode(photo), style="pink")
        library.remove("pink", owner="museum")
        assert museum.styles() == ["red", "green", "blue"]


def test_a_parameter_that_no_client_of_ours_sends_is_named(three_styles, photo):
    image = np.array([photo], np.object_)
    with pytest.raises(InvalidArgument, match="color: unknown parameter; accepted: detail, format, preserve_colors"):
        three_styles.infer("stylize", {"image": image}, {"color": True})


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"style": "mona_lisa"}, "style: 'mona_lisa' is unknown; accepted: red, green, blue"),
        ({"styles": {"red": 1, "pink": 1}}, "styles: 'pink' is unknown; accepted: red, green, blue"),
        ({"styles": {"red": -1}}, "'red' has weight -1.0; weights should be finite and at least 0"),
        ({"styles": {"red": float("nan")}}, "'red' has weight nan"),
        ({"styles": {"red": 0.0}}, "all weights are 0"),
        ({"style": "red", "styles": {"red": 1}}, "parameters: "),
        ({"style_vector": [1, 2]}, "style_vector: shape [2]; accepted: [3]"),
        ({"style_vector": [[[1, 2, 3]]]}, "style_vector"),
        (
            {"style_vector": []},
            "style_vector: [] of type list; accepted: a sequence or an array of numbers, at least one",
        ),
        ({"style_vector": [1, 2, float("nan")]}, "style_vector: holds NaN or infinity"),
        ({"style_vector": [1, 2, 1e39]}, "style_vector: holds NaN or infinity"),
        ({"style_vector": [1, 2, 3e3]}, "1 of 3 numbers are far from those of all trained styles; number 2 is 3000"),
        ({"style_vector": [1, 2, 3], "style_network": "x"}, f"style_network: 'x'; accepted: '{NETWORK}'"),
        ({"style_vector": [1, 2, 3], "style": "red"}, "style_vector: came together with 'red'"),
        ({"strength": -0.5}, "strength: -0.5 is not accepted; Input should be greater than or equal to 0"),
        ({"size": 100_000}, "size: 100000 is not accepted; Input should be less than or equal to 8192"),
        ({"format": "bmp"}, "format: 'bmp' is not accepted; Input should be 'same', 'png', 'jpeg' or 'webp'"),
    ],
)
def test_a_wrong_parameter_is_an_invalid_argument_with_what_is_accepted(three_styles, photo, parameters, expected):
    with pytest.raises(ReverieError) as caught:
        three_styles.stylize(photo, **parameters)
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert expected in caught.value.message


def test_a_large_picture_takes_the_whole_picture_s_statistics(three_styles):
    photo = noise(1200, 2000)
    photo = photo // 4 + np.linspace(0, 180, 2000).astype(np.uint8)[:, None]
    answer = images.decode(three_styles.stylize(images.encode(photo), size=2000, style="red"))
    assert (
        np.abs(answer.astype(int) - with_mirrored_margin(tint, photo, np.array([1, 0, 0]))).max() <= 3
    )  # A thumbnail's are a little off.


@pytest.mark.slow
def test_a_full_queue_refuses_at_once_and_answers_the_others_each_with_its_own_picture(three_styles):
    photos = [noise(900, 900, seed) for seed in range(24)]
    files = [images.encode(photo) for photo in photos]
    wanted = [with_mirrored_margin(tint, photo, np.array([0, 0, 1])) for photo in photos]

    def outcome(i: int) -> grpc.StatusCode | None:
        try:
            answer = images.decode(three_styles.stylize(files[i], style="blue"))
        except ReverieError as error:
            assert "6 requests of callers without a name are waiting or running; at most 6" in error.message
            return error.code
        assert np.abs(answer.astype(int) - wanted[i]).max() <= 1
        return None

    with ThreadPoolExecutor(len(files)) as pool:
        outcomes = list(pool.map(outcome, range(len(files))))
    assert set(outcomes) == {None, grpc.StatusCode.UNAVAILABLE}
    assert outcomes.count(None) >= WORKERS + WAITING
    assert outcome(0) is None


@pytest.mark.slow
def test_the_network_s_full_queue_refuses_at_once_and_answers_the_others(client):
    pictures = [np.full((1, 512, 512, 3), i, np.uint8) for i in range(120)]
    waiting = next(p.value for p in configuration.style(["any"]).parameters if p.name == "max_waiting")
    places = 1 + int(waiting)
    alone = client.infer("style", {"image": pictures[7], STYLE_INPUT: FIRST_STYLE}).outputs["stylized"]

    def outcome(i: int) -> grpc.StatusCode | None:
        try:
            answer = client.infer("style", {"image": pictures[i], STYLE_INPUT: FIRST_STYLE}, timeout=20)
        except ReverieError as error:
            assert any(
                reason in error.message
                for reason in (f"{places} requests of callers without a name", "maximum queue size")
            )
            return error.code
        assert i != 7 or (answer.outputs["stylized"] == alone).all()
        return None

    with ThreadPoolExecutor(len(pictures)) as pool:
        outcomes = list(pool.map(outcome, range(len(pictures))))
    assert set(outcomes) == {None, grpc.StatusCode.UNAVAILABLE}
    assert outcomes.count(None) >= places
    assert outcome(7) is None


def test_a_greedy_client_is_refused_and_another_is_not(small_server):
    """Of six places one client may have three."""
    large, small = (images.encode(noise(side, side), "jpeg") for side in (1000, 64))
    refusals: list[ReverieError] = []
    refused, enough = threading.Event(), threading.Event()

    def ask() -> None:
        while not enough.is_set():
            try:
                greedy.stylize(large)
            except ReverieError as error:
                refusals.append(error)
                refused.set()

    address = small_server.address.grpc
    with (
        Client(address, name="greedy", retry=None) as greedy,
        Client(address, name="modest", retry=None) as modest,
        ThreadPoolExecutor(9) as pool,
    ):
        asking = [pool.submit(ask) for _ in range(9)]
        try:
            assert refused.wait(60)
            for _ in range(3):
                assert modest.stylize(small)
        finally:
            enough.set()
        for future in asking:
            future.result()
    assert {(e.code, "of client 'greedy'" in e.message) for e in refusals} == {(grpc.StatusCode.UNAVAILABLE, True)}
