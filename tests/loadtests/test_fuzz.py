import pytest
from reverie_client import Client

from loadtests.fuzz.cases import case
from loadtests.fuzz.run import Sender, fuzz
from loadtests.target import Target
from serving.door.door import Door
from serving.triton.server import TritonServer

pytestmark = pytest.mark.tensorflow


def test_a_case_is_the_same_at_every_run_and_others_differ():
    assert case(1, 7) == case(1, 7)
    assert len({case(1, number).request.SerializeToString() for number in range(200)}) > 150
    assert {case(1, number).request.model_name for number in range(300)} >= {"generate", "score", "stylize", "style"}


def test_a_thousand_almost_right_requests_do_no_harm(server: TritonServer, door: Door, client: Client):
    pid = server.pid
    findings = fuzz(Target(str(door.settings.grpc)), range(1_000), seed=2)
    assert findings.failures == {}
    assert findings.is_clean
    assert sum(findings.outcomes.values()) == 1_000
    # Not all of them are refused at the door, and not all are valid.
    assert findings.outcomes["OK"] > 100
    assert findings.outcomes["INVALID_ARGUMENT"] > 100
    assert (server.pid, server.poll()) == (pid, None)
    assert client.score("This movie was good").logprob < 0


def test_a_server_s_own_failure_a_hang_and_a_crash_are_found(monkeypatch):
    answers = iter([("INTERNAL", "INTERNAL: stub died"), ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED: no"), ("OK", "")])
    monkeypatch.setattr(Sender, "send", lambda self, sent: next(answers))
    monkeypatch.setattr(Sender, "is_ready", lambda self: False)
    findings = fuzz(Target("127.0.0.1:1"), range(3), seed=1, senders=1)
    assert (findings.internal_errors, findings.hangs, findings.crashes) == (1, 1, 1)
    assert list(findings.failures) == [0, 1]
    assert not findings.is_clean
