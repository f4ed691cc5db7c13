"""The table of parameters: defaults, ranges, documentation."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from serving.parameters import markdown_table
from serving.text.parameters import GenerateParameters

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "generate.md"


def test_the_documentation_is_the_table():
    assert markdown_table(GenerateParameters) in DOCUMENT.read_text()


def test_stop_and_logit_bias_may_come_as_text():
    assert GenerateParameters(stop="end").stop == ("end",)
    assert GenerateParameters(stop='["a", "b"]').stop == ("a", "b")
    assert GenerateParameters(logit_bias='{"5": -2.5}').logit_bias == {5: -2.5}


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1}, {"temperature": 2.1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1},
        {"min_p": -1}, {"top_k": -2}, {"repetition_penalty": 0}, {"frequency_penalty": 3}, {"presence_penalty": -3},
        {"max_tokens": 0}, {"n": 0}, {"n": 129}, {"n": 2, "temperature": 0}, {"logprobs": 21}, {"stop": [""]},
        {"logit_bias": {1: 101}}, {"logit_bias": "no"}, {"seed": -1}, {"truncate": 0}, {"unknown": 1},
    ],
)  # fmt: skip
def test_what_vllm_refuses_is_refused(wrong):
    with pytest.raises(ValidationError):
        GenerateParameters(**wrong)
