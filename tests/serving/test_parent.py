"""A process that is to end with its parent does, and is its child otherwise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serving.parent import dying_with_this

_PARENT = """
import subprocess, sys
from serving.parent import dying_with_this
child = subprocess.Popen(dying_with_this(["/bin/sh", "-c", "echo here; exec sleep 1000"]))
sys.stdin.read()
"""


def test_it_becomes_the_command_under_the_same_number():
    done = subprocess.run(dying_with_this(["/bin/echo", "a b", "c"]), capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, "a b c\n")


def test_a_child_ends_with_a_parent_that_is_killed():
    command = [sys.executable, "-c", _PARENT]
    parent = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert parent.stdout.readline() == "here\n"
    parent.kill()
    assert parent.stdout.read() == ""  # The child had its other end.
    parent.communicate()


def test_it_does_not_start_for_a_parent_that_has_ended():
    command = dying_with_this(["/bin/echo", "here"])
    command[4] = "1"
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == -9 and done.stdout == ""
