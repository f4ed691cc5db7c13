"""`reverie batch` before a stand-in for Triton: answers in OpenAI's form, interruptions, lines that are none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from reverie.cli import cli
from serving import batch
from tests.client import stand_in
from tests.client.stand_in import Refusal, StandIn


@pytest.fixture
def triton() -> Iterator[tuple[str, StandIn]]:
    with stand_in.running() as found:
        yield found


def line(custom_id: str, url: str = "/v1/completions", **body: object) -> str:
    default = {"text": "x"} if url == "/v1/score" else {"model": "generate", "prompt": "x"}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": {**default, **body}})


def run(source: Path, target: Path, address: str, status: int = 0) -> str:
    result = CliRunner().invoke(cli, ["batch", str(source), str(target), "--address", address])
    assert result.exit_code == status, result.output
    return result.output


def answers(target: Path) -> dict[str, dict]:
    found = [json.loads(text) for text in target.read_text().splitlines()]
    assert len(found) == len({answer["custom_id"] for answer in found})
    return {answer["custom_id"]: answer["response"] for answer in found}


def test_each_request_has_an_answer_by_its_id_and_an_error_is_one_too(tmp_path, triton):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [line("a"), line("b", "/v1/score"), "", line("c", n=0), line("d", "/v1/nothing"), line("e", stream=True)]
    source.write_text("\n".join(lines))
    output = run(source, target, triton[0], status=1)
    found = answers(target)
    assert {name: answer["status_code"] for name, answer in found.items()} == {
        "a": 200,
        "b": 200,
        "c": 400,
        "d": 404,
        "e": 200,
    }
    assert found["a"]["body"]["object"] == "text_completion"
    assert found["c"]["body"]["error"]["param"] == "n"
    assert "5 answered, 2 of them failed, 0 were there" in output


def test_a_batch_goes_on_where_it_was(tmp_path, triton):
    """An answer that was cut off while it was written is asked for again, and so is an error of the moment."""
    address, servicer = triton
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(line(name) for name in "abcd"))
    run(source, target, address)
    lines = {json.loads(text)["custom_id"]: text for text in target.read_text().splitlines()}
    lost = json.loads(lines["b"])
    lost["response"]["status_code"] = 503
    target.write_text(lines["a"] + "\n" + json.dumps(lost) + "\n" + lines["c"] + "\n" + lines["d"][:40])
    servicer.requests.clear()
    assert "2 answered, 0 of them failed, 2 were there" in run(source, target, address)
    assert len(servicer.requests) == 2
    assert answers(target).keys() == set("abcd")
    assert {lines["a"], lines["c"]} < set(target.read_text().splitlines())


def test_more_requests_than_go_at_once_are_all_answered(tmp_path, triton):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(line(str(number), "/v1/score") for number in range(40)))
    assert "40 answered" in run(source, target, triton[0])
    assert answers(target).keys() == {str(number) for number in range(40)}


def test_a_full_server_is_asked_again(tmp_path, triton, monkeypatch):
    address, servicer = triton
    monkeypatch.setattr(batch, "_FIRST_PAUSE_S", 0.01)
    servicer.refusals = [Refusal(grpc.StatusCode.UNAVAILABLE, metadata=(("grpc-retry-pushback-ms", "0"),))] * 3
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line("a"))
    run(source, target, address)
    assert answers(target)["a"]["status_code"] == 200 and len(servicer.requests) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", ":1: not JSON"),
        (line("a") + "\n" + line("a"), ":2: custom_id 'a' is there twice; accepted: once"),
        ('{"custom_id": "a"}', ":1: method: Field required"),
        (line("a").replace("POST", "GET"), ":1: method: "),
        (line("a", url="http://x/"), ":1: url: "),
        ("[" * 100_000, ":1: not JSON"),
        ("3", ":1: line: "),
    ],
)
def test_a_line_that_is_no_request_is_named_and_nothing_is_written(tmp_path, text, message):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(text)
    result = CliRunner().invoke(cli, ["batch", str(source), str(target)])
    assert result.exit_code == 1 and message in str(result.exception)
    assert not target.exists()


def test_a_file_of_something_else_is_not_written_over(tmp_path, triton):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line("a"))
    target.write_text("a diary\n")
    result = CliRunner().invoke(cli, ["batch", str(source), str(target), "--address", triton[0]])
    assert "not an answer of a batch" in str(result.exception)
    assert target.read_text() == "a diary\n"
    assert CliRunner().invoke(cli, ["batch", str(source), str(source)]).exit_code == 2
    assert source.read_text() == line("a")
