"""How much memory Triton itself may take; that a message which inflates ends it is in `test_process`."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from serving.triton import memory

GIB = 2**30
UNLIMITED_IN_VERSION_1 = 9223372036854771712


def machine(tmp_path, groups: str, files: dict[str, object]) -> int:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(f"{text}\n")
    return memory.machine_bytes(tmp_path / "proc", tmp_path / "cgroup")


WHOLE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"memory.max": GIB}, GIB),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": GIB}, GIB),
        ("0::/outside\n", {"memory.max": GIB}, GIB),
        ("0::/\n", {"memory.max": "max"}, WHOLE),
        ("0::/\n", {}, WHOLE),
        ("4:cpu,memory:/a\n1:cpu:/\n", {"memory/a/memory.limit_in_bytes": GIB}, GIB),
        ("4:memory:/a\n", {"memory/memory.limit_in_bytes": UNLIMITED_IN_VERSION_1}, WHOLE),
        ("0::/\n", {"memory.max": 2 * WHOLE}, WHOLE),
    ],
)
def test_a_cgroup_s_memory_counts_where_it_is_less_than_the_machine_s(tmp_path, groups, files, expected):
    assert machine(tmp_path, groups, files) == expected


EATER = "import sys; sys.stdin.read(1); x = bytes(int(sys.argv[1])); print(len(x))"


def eat(more: int, allowed: int) -> subprocess.CompletedProcess | int:
    """Let a process that has started take `more` bytes; its exit status."""
    process = subprocess.Popen([sys.executable, "-c", EATER, str(more)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    memory.limit(process.pid, allowed)
    process.communicate(b"x")
    return process.returncode


def test_a_process_may_take_so_much_more_than_it_has_and_no_more():
    assert eat(more=GIB // 8, allowed=GIB) == 0
    assert eat(more=GIB, allowed=GIB // 8) != 0


def test_a_process_that_has_ended_is_an_os_error_before_and_after_its_parent_knows():
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(OSError):
        memory.limit(process.pid, GIB)
    process.wait()
    with pytest.raises(OSError):
        memory.limit(process.pid, GIB)


def test_a_limit_below_another_limit_of_the_user_leaves_that_in_place():
    process = subprocess.Popen(["sleep", "60"])
    try:
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (GIB, GIB))
        memory.limit(process.pid, 4 * GIB)
        assert resource.prlimit(process.pid, resource.RLIMIT_DATA) == (GIB, GIB)
    finally:
        process.kill()
        process.wait()


def test_the_stub_of_a_model_lifts_the_limit_and_keeps_its_arguments(tmp_path):
    wheel = tmp_path / "a folder with 'quotes' and $signs"
    wheel.mkdir()
    (wheel / "stub").write_text('#!/bin/sh\nulimit -S -d\nprintf "%s\\n" "$@"\nexit 7\n')
    (wheel / "stub").chmod(0o755)
    memory.write_stub(tmp_path / "wrapper", wheel / "stub")
    limited = ["sh", "-c", f"ulimit -S -d 1000000; exec {tmp_path}/wrapper 'a b' '$c'"]
    done = subprocess.run(limited, capture_output=True, text=True)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    lifted = "unlimited" if hard == resource.RLIM_INFINITY else str(hard // 1024)
    assert (done.stdout.splitlines(), done.returncode) == ([lifted, "a b", "$c"], 7)
