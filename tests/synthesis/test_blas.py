import subprocess
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from synthesis.blas import one_thread
from synthesis.objective import Evaluation
from synthesis.optimizers import lbfgs


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_threads():
    """Whatever the machine has."""
    with threadpool_limits(2, "blas"):
        yield


def test_lbfgs_holds_blas_to_one_thread_and_gives_the_threads_back():
    during = []

    def evaluate(pixels):
        during.append(blas_threads())
        return Evaluation(float((pixels**2).sum()), {}, {}, 2 * pixels)

    lbfgs(evaluate, np.ones((4, 4, 3)), 2, 0.0, lambda pixels, here: None)
    assert during and all(threads == {1} for threads in during)
    assert blas_threads() == {2}


def test_of_two_optimizations_at_once_the_first_that_ends_leaves_the_other_its_thread():
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with one_thread.held():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with one_thread.held():
        thread.start()
        assert entered.wait(10)
    assert blas_threads() == {1}
    leave.set()
    thread.join(10)
    assert blas_threads() == {2}
    with one_thread.held():
        assert blas_threads() == {1}


def test_an_error_gives_the_threads_back():
    with pytest.raises(ZeroDivisionError), one_thread.held():
        raise ZeroDivisionError
    assert blas_threads() == {2}


def test_importing_the_package_changes_no_environment_variable():
    code = "import os; before = dict(os.environ); import synthesis; assert dict(os.environ) == before"
    subprocess.run([sys.executable, "-c", code], check=True)
