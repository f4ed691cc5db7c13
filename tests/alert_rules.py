"""The alerts of deploy/prometheus on recorded scrapes: which fire, by our evaluator and by Prometheus' own where it is at hand."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.promql import Labels, Recording, evaluate

FILE = Path(__file__).resolve().parents[1] / "deploy" / "prometheus" / "alerts.yml"
EVERY_S = 15
"""Between two evaluations, as deploy/prometheus/prometheus.yml says."""
_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Rule:
    """An alert: what it asks, and for how many seconds that must hold."""

    alert: str
    expression: str
    seconds: float
    labels: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, rule: dict[str, Any]) -> Rule:
        number, unit = re.fullmatch(r"(\d+)([smh])", rule.get("for", "0s")).groups()  # type: ignore[union-attr]
        return cls(rule["alert"], rule["expr"], int(number) * _UNITS[unit], rule["labels"])


def read_rules(text: str = "") -> list[Rule]:
    """Return the rules of a file's text; of deploy/prometheus/alerts.yml for none."""
    groups = yaml.safe_load(text or FILE.read_text())["groups"]
    return [Rule.of(rule) for group in groups for rule in group["rules"]]


@dataclass(frozen=True)
class Firing:
    """An alert that fires, and of what."""

    alert: str
    labels: Labels

    def __getitem__(self, label: str) -> str:
        return dict(self.labels).get(label, "")


def firing(recording: Recording, rules: Iterable[Rule] = ()) -> set[Firing]:
    """Return what fires when the last scrape was made, or fired before it."""
    found: set[Firing] = set()
    for rule in rules or read_rules():
        since: dict[Labels, float] = {}
        for instant in range(0, round(recording.scrapes[-1].at) + 1, EVERY_S):
            holding = evaluate(rule.expression, recording, instant)
            since = {labels: since.get(labels, instant) for labels in holding}
            found |= {Firing(rule.alert, s) for s, begun in since.items() if instant - begun >= rule.seconds}
    return found


def check_with_promtool(promtool: str, recording: Recording, alerts: set[Firing], folder: Path) -> None:
    """Have Prometheus' own evaluator say that at some time exactly `alerts` fired.

    Raises:
        AssertionError: it says otherwise.
    """
    severity = {rule.alert: rule.labels for rule in read_rules()}
    expected = [
        {"labels": _written({**dict(a.labels), **severity[a.alert], "alertname": a.alert}), "value": 1} for a in alerts
    ]
    end = round(recording.scrapes[-1].at)
    asked = {
        "expr": f'max without (alertstate) (max_over_time(ALERTS{{alertstate="firing"}}[{end + 1}s]))',
        "eval_time": f"{end}s",
        "exp_samples": expected,
    }
    test = {
        "rule_files": [str(FILE)],
        "evaluation_interval": f"{EVERY_S}s",
        "tests": [{"interval": "60s", "input_series": _input(recording), "promql_expr_test": [asked]}],
    }
    file = folder / "rules_test.yml"
    file.write_text(yaml.safe_dump(test))
    told = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr


def _input(recording: Recording) -> list[dict[str, str]]:
    """The series in promtool's notation; the scrapes are a minute apart."""
    assert [scrape.at for scrape in recording.scrapes] == [60.0 * i for i in range(len(recording.scrapes))]
    series = {s for scrape in recording.scrapes for s in scrape.samples}
    return [
        {
            "series": dict(s)["__name__"] + _written({k: v for k, v in s if k != "__name__"}),
            "values": " ".join(
                repr(scrape.samples[s]) if s in scrape.samples else "stale" for scrape in recording.scrapes
            ),
        }
        for s in series
    ]


def _written(labels: dict[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
