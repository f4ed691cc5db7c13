"""The gateway before the embedded Triton, called by the real `openai` client and by plain HTTP."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse

import openai
import pytest
from reverie_client import Client

from imaging import images
from serving.gateway.options import GatewayOptions
from serving.gateway.process import Gateway
from serving.triton.address import ListenAddress
from serving.triton.server import TritonServer
from tests.conftest import PICTURES
from tests.serving.forms import multipart


@pytest.fixture(scope="module")
def gateway(server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    options = GatewayOptions(server.repository)
    log = tmp_path_factory.mktemp("gateway") / "gateway.log"
    with Gateway(f"127.0.0.1:{ListenAddress.free().http_port}", server.address.grpc, options, log) as running:
        yield running
        assert running.poll() is None


@pytest.fixture(scope="module")
def ai(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{gateway.address}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def small() -> bytes:
    """A picture that a step of any model takes little time for."""
    return images.encode(images.resize(images.read(PICTURES / "cat.jpg"), 64, 80), "png")


@pytest.fixture(scope="module")
def scene() -> bytes:
    """Large enough to dream on: the features that are shipped take sides of at least 80 pixels."""
    return images.encode(images.resize(images.read(PICTURES / "cat.jpg"), 88, 96), "png")


def call(gateway: Gateway, method: str, path: str, body: bytes | None = None, **headers: str) -> HTTPResponse:
    connection = HTTPConnection(*gateway.address.split(":"), timeout=120)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    return connection.getresponse()


def post_form(gateway: Gateway, path: str, parts: list[tuple[str, bytes | str]]) -> HTTPResponse:
    body, kind = multipart(parts)
    return call(gateway, "POST", path, body, content_type=kind)


def test_the_models_are_listed_and_found_by_name(ai):
    names = [model.id for model in ai.models.list()]
    assert names == ["generate", "score", "stylize", "deepdream", "style_transfer"]
    assert ai.models.retrieve("generate").object == "model"
    with pytest.raises(openai.NotFoundError, match="there are: generate"):
        ai.models.retrieve("gpt-4")


def test_a_completion_is_the_text_that_grpc_gives_for_the_seed(ai, server):
    done = ai.completions.create(model="generate", prompt="This movie was", max_tokens=8, seed=3, temperature=0.7)
    with Client(server.address.grpc) as client:
        expected = "".join(d.text for d in client.generate("This movie was", max_tokens=8, seed=3, temperature=0.7))
    assert done.choices[0].text == expected
    assert done.choices[0].finish_reason in ("length", "stop")


def test_usage_counts_the_prompt_and_what_was_written(ai):
    done = ai.completions.create(
        model="generate", prompt="This movie was", max_tokens=5, n=2, extra_body={"ignore_eos": True}
    )
    reported = ai.completions.create(model="generate", prompt="This movie was", max_tokens=1, echo=True, logprobs=0)
    assert done.usage.completion_tokens == 10
    assert done.usage.prompt_tokens == len(reported.choices[0].logprobs.tokens) - 1
    assert done.usage.total_tokens == done.usage.prompt_tokens + 10
    assert reported.usage.completion_tokens == 1


def test_a_stream_joins_to_the_whole_text_and_ends_with_usage(ai):
    asked = {
        "model": "generate",
        "prompt": "This movie was",
        "max_tokens": 100,
        "seed": 5,
        "extra_body": {"ignore_eos": True},
    }
    whole = ai.completions.create(**asked)
    chunks = list(ai.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert len(chunks) > 3


def test_a_stream_s_last_line_is_done(gateway):
    body = json.dumps({"model": "generate", "prompt": "This movie", "max_tokens": 2, "stream": True}).encode()
    with call(gateway, "POST", "/v1/completions", body, content_type="application/json") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.read().endswith(b"\n\ndata: [DONE]\n\n")


def test_several_prompts_have_n_choices_each_in_their_order(ai):
    prompts = ["This movie was", "The actor", "I liked"]
    asked = {"model": "generate", "prompt": prompts, "n": 2, "max_tokens": 4, "seed": 1, "echo": True}
    done = ai.completions.create(**asked)
    assert [choice.index for choice in done.choices] == list(range(6))
    assert all(choice.text.startswith(prompts[choice.index // 2]) for choice in done.choices)
    pieces = [""] * 6
    for chunk in ai.completions.create(**asked, stream=True):
        pieces[chunk.choices[0].index] += chunk.choices[0].text
    assert pieces == [choice.text for choice in done.choices]


def test_token_ids_are_prompts_too(ai, gateway):
    from serving.gateway.tokens import StableTokenizer

    tokenizer = StableTokenizer(gateway.options.repository).find()
    ids = tokenizer.encode("This movie was")
    asked = {"model": "generate", "max_tokens": 5, "temperature": 0}
    text = ai.completions.create(prompt=tokenizer.decode(ids), **asked).choices[0].text
    assert ai.completions.create(prompt=ids, **asked).choices[0].text == text
    assert [c.text for c in ai.completions.create(prompt=[ids, ids], **asked).choices] == [text, text]
    with pytest.raises(openai.BadRequestError, match="token 10000000; accepted: token ids from 0 to"):
        ai.completions.create(prompt=[10_000_000], **asked)


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_have_offsets_into_the_text(ai, stream):
    answer = ai.completions.create(
        model="generate", prompt="This movie was", max_tokens=6, logprobs=2, echo=True, temperature=0, stream=stream
    )
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    text = "".join(choice.text for choice in choices)
    tokens = [token for choice in choices for token in choice.logprobs.tokens]
    offsets = [offset for choice in choices for offset in choice.logprobs.text_offset]
    values = [value for choice in choices for value in choice.logprobs.token_logprobs]
    assert all(text[at:].startswith(token) for token, at in zip(tokens, offsets, strict=True))
    assert values[0] is None and all(value <= 0 for value in values[1:])
    assert all(len(top) == 2 for choice in choices for top in choice.logprobs.top_logprobs if top)


def test_stop_bias_and_penalties_reach_the_model(ai):
    asked = {"model": "generate", "prompt": "This movie was", "max_tokens": 12, "temperature": 0}
    text = ai.completions.create(**asked).choices[0].text
    word = text.split()[2]
    stopped = ai.completions.create(**asked, stop=word).choices[0]
    assert stopped.finish_reason == "stop" and stopped.text == text[: text.index(word)]
    assert ai.completions.create(**asked, stop="[").choices[0].text == text  # No JSON.
    biased = ai.completions.create(**asked, logit_bias={"50": 100}, frequency_penalty=0).choices[0].text
    assert biased != text
    assert ai.completions.create(**asked, extra_body={"repetition_penalty": 2.0, "top_k": 1}).choices[0].text


def test_a_parameter_out_of_range_is_named_before_a_stream_begins(ai):
    with pytest.raises(openai.BadRequestError) as error:
        ai.completions.create(model="generate", prompt="x", temperature=3, stream=True)
    assert error.value.param == "temperature" and error.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="tokens; accepted: 0 to 255 tokens") as error:
        ai.completions.create(model="generate", prompt="this " * 1000, stream=True)
    assert error.value.param == "prompt"


def test_chat_is_refused_in_one_sentence(ai):
    with pytest.raises(openai.NotFoundError, match="there are no chat completions; POST /v1/completions"):
        ai.chat.completions.create(model="generate", messages=[{"role": "user", "content": "hello"}])


def test_an_image_is_edited_in_the_style_that_the_prompt_names(ai, server, small):
    done = ai.images.edit(model="stylize", image=("cat.png", small), prompt="in the style of The Scream, please")
    with Client(server.address.grpc) as client:
        expected = client.stylize(small, style="the_scream")
    assert base64.b64decode(done.data[0].b64_json) == expected
    assert done.data[0].revised_prompt == "the_scream"
    assert (done.size, done.output_format) == ("80x64", "png")


def test_format_quality_and_size_are_openai_s(ai, small):
    done = ai.images.edit(
        model="stylize", image=small, prompt="", output_format="webp", output_compression=50, size="32x40"
    )
    data = base64.b64decode(done.data[0].b64_json)
    assert data[8:12] == b"WEBP" and images.measure(data) == (32, 40)


@pytest.mark.parametrize("model", ["deepdream", "style_transfer"])
def test_partial_images_come_from_the_running_optimization(ai, scene, model):
    sources = [("photo.png", scene), ("painting.png", scene)] if model == "style_transfer" else ("photo.png", scene)
    steps = {"steps": 9} if model == "style_transfer" else {"iterations": 8, "num_octave": 1}
    events = list(
        ai.images.edit(
            model=model, image=sources, prompt="", stream=True, partial_images=2, extra_body={**steps, "size": 96}
        )
    )
    assert [event.type for event in events] == [*["image_edit.partial_image"] * 2, "image_edit.completed"]
    assert [event.partial_image_index for event in events[:-1]] == [0, 1]
    assert len({event.b64_json for event in events}) == 3
    assert all(images.measure(base64.b64decode(event.b64_json)) for event in events)
    assert events[-1].usage.total_tokens == 0 and events[-1].output_format == "png"


def test_an_edit_that_is_refused_says_why(ai, small):
    with pytest.raises(openai.BadRequestError, match="image: 3 bytes that are not an image") as error:
        ai.images.edit(model="deepdream", image=b"abc", prompt="", stream=True)
    assert error.value.param == "image"
    with pytest.raises(openai.BadRequestError, match="style_image: missing"):
        ai.images.edit(model="style_transfer", image=small, prompt="")
    with pytest.raises(openai.BadRequestError, match="response_format: 'url'; accepted: b64_json"):
        ai.images.edit(model="stylize", image=small, prompt="", response_format="url")
    with pytest.raises(openai.BadRequestError, match="mask: not offered"):
        ai.images.edit(model="stylize", image=small, mask=small, prompt="")


def test_a_picture_comes_in_raw_and_goes_out_with_its_own_type(gateway, server, small):
    answer = call(gateway, "POST", "/v1/stylize?style=wave&format=jpeg", small, content_type="image/png")
    with Client(server.address.grpc) as client:
        expected = client.stylize(small, style="wave", format="jpeg")
    assert (answer.status, answer.headers["content-type"], answer.read()) == (200, "image/jpeg", expected)
    form = post_form(gateway, "/v1/stylize", [("image", small), ("styles[wave]", "1"), ("styles[the_scream]", "3")])
    assert (form.status, form.headers["content-type"]) == (200, "image/png")
    with Client(server.address.grpc) as client:
        assert form.read() == client.stylize(small, styles={"wave": 1, "the_scream": 3})


def test_a_transfer_takes_several_paintings_and_shows_its_steps(gateway, small):
    parts = [("image", small), ("style_image", small), ("style_image", small), ("steps", "4"), ("size", "64")]
    whole = post_form(gateway, "/v1/transfer", parts)
    assert whole.headers["content-type"] == "image/png"
    events = read_events(post_form(gateway, "/v1/transfer", [*parts, ("stream", "true")]))
    assert [name for name, _ in events] == [*["step"] * (len(events) - 1), "result"]
    assert events[0][1]["steps"] == 4 and set(events[0][1]["loss_parts"]) == {"content", "style", "total_variation"}
    assert images.measure(base64.b64decode(events[-1][1]["image"])) == images.measure(whole.read())


def test_raw_pixels_come_with_their_shape(gateway, scene):
    path = "/v1/dream?iterations=1&num_octave=1&size=96&format=raw"
    answer = call(gateway, "POST", path, scene, content_type="application/octet-stream")
    assert answer.headers["x-reverie-shape"] == "88,96,3"
    assert len(answer.read()) == 88 * 96 * 3


def test_a_wrong_parameter_of_a_picture_has_the_model_s_own_message(gateway, small):
    answer = call(gateway, "POST", "/v1/dream?octave_scale=9", small, content_type="image/png")
    error = json.loads(answer.read())["error"]
    assert (answer.status, error["param"]) == (400, "octave_scale")
    answer = call(gateway, "POST", "/v1/stylize?style=mona", small, content_type="image/png")
    assert "'mona' is unknown; accepted: starry_night, the_scream" in json.loads(answer.read())["error"]["message"]


def test_styles_score_and_health(gateway):
    assert json.loads(call(gateway, "GET", "/v1/styles").read())["default"] == "starry_night"
    body = json.dumps({"text": "This movie was great"}).encode()
    scored = json.loads(call(gateway, "POST", "/v1/score", body, content_type="application/json").read())
    assert scored["logprob"] == pytest.approx(sum(scored["token_logprobs"]), rel=1e-4)
    assert call(gateway, "GET", "/healthz").status == call(gateway, "GET", "/readyz").status == 200
    assert gateway.alive() and gateway.ready()


def test_callers_who_hang_up_free_their_places(gateway, scene):
    """Six jobs are as many as a caller may have; a seventh is refused until one of them has ended."""

    def begin() -> HTTPResponse:
        path = "/v1/dream?iterations=1000&num_octave=1&size=96&frames=100"
        return call(
            gateway, "POST", path, scene, content_type="image/png", accept="text/event-stream", reverie_client="anna"
        )

    jobs = [begin() for _ in range(6)]
    assert [job.status for job in jobs] == [200] * 6
    refused = begin()
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    for job in jobs:
        job.close()
    deadline = time.monotonic() + 20
    while (again := begin()).status == 503:
        assert time.monotonic() < deadline, "nothing was cancelled"
    assert again.status == 200
    again.close()


def read_events(answer: HTTPResponse) -> list[tuple[str, dict]]:
    """Names and JSON of server-sent events."""
    written = [block.split("\n") for block in answer.read().decode().split("\n\n") if block.startswith("event")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in written]
