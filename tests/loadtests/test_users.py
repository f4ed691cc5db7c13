"""Locust's users, in a process of their own: locust patches whoever imports it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serving.triton.server import PROJECT
from tests.loadtests.paced_server import recording_server

ENDED_WHILE_CALLING = """
import sys
from locust.env import Environment
import gevent
from loadtests.users import ScoreUser

environment = Environment()
environment.events.request.add_listener(lambda name, exception, **_: print(name, exception))
user = ScoreUser(environment)
user.host = sys.argv[1]
user.on_start()
calling = gevent.spawn(user.call)
gevent.sleep(0.01)
calling.kill()
"""


@pytest.mark.slow
def test_a_call_whose_user_is_ended_meanwhile_is_reported():
    with recording_server(seconds=1.0) as (address, texts):
        command = [sys.executable, "-c", ENDED_WHILE_CALLING, address]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, len(texts)) == ("score None\n", 1), done.stderr
