"""One base for whatever a call may fail with, and a class for each status."""

from __future__ import annotations

import copy
import pickle

import grpc
import pytest
import reverie_client
from reverie_client import ParameterError, ReverieError, SecurityError, errors, failures

STATUSES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("code", STATUSES, ids=lambda code: code.name)
def test_every_status_has_a_class_of_its_name_that_the_package_shows(code):
    error = errors.of_status(code, "why")
    name = "".join(part.capitalize() for part in code.name.split("_"))
    assert type(error) is getattr(reverie_client, name)
    assert isinstance(error, ReverieError)
    assert (error.code, error.message, str(error)) == (code, "why", f"{code.name}: why")


@pytest.mark.parametrize("code", STATUSES, ids=lambda code: code.name)
def test_an_error_in_a_stream_s_message_has_the_class_of_its_status(code):
    assert type(failures.in_band(f"{code.name}: why: because")) is type(errors.of_status(code, ""))
    assert failures.in_band(f"{code.name}: why: because").message == "why: because"


def test_triton_s_own_error_has_no_status_and_the_one_about_a_key_the_right_one():
    assert type(failures.in_band("in ensemble 'x': failed")) is errors.Unknown
    refused = failures.in_band("This protocol is restricted, expecting header 'triton-grpc-protocol-reverie-api-key'")
    assert type(refused) is errors.Unauthenticated


def test_what_is_found_before_a_call_has_the_same_base():
    assert isinstance(ParameterError("size: x"), (errors.InvalidArgument, ValueError))
    assert issubclass(ParameterError, ValueError)
    assert isinstance(SecurityError("no key"), errors.Unauthenticated)
    assert str(SecurityError("no key")) == "no key"
    assert str(ParameterError("size: x")) == "INVALID_ARGUMENT: size: x"


@pytest.mark.parametrize(
    "error",
    [errors.of_status(grpc.StatusCode.UNAVAILABLE, "full", 2.0), ParameterError("size: x"), SecurityError("no key")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_processes_and_copies(error):
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert (other.code, other.message, other.retry_after, str(other)) == (
            error.code,
            error.message,
            error.retry_after,
            str(error),
        )
