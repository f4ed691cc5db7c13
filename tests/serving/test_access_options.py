"""What `reverie serve` makes of its options for keys and tokens, without starting anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from reverie_client.credentials import SecurityError
from typer.testing import CliRunner

from serving import service
from serving.door import __main__ as sidecar
from serving.door import opening
from serving.door.folder import remove_folder
from serving.door.key_commands import KEYS_VARIABLE, default_path
from serving.door.keys import KeyFile
from serving.door.settings import TokenIssuer
from serving.security import Security
from serving.server_commands import serve
from serving.triton.address import ListenAddress


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Runs `reverie serve` with some options; returns what it would have served, or None, and what it said."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    served = []
    monkeypatch.setattr(service, "run", lambda found, stop: served.append(found))
    cli = typer.Typer()
    cli.command()(serve)

    def run(*options):
        served.clear()
        result = CliRunner().invoke(cli, options, env={"COLUMNS": "300"})
        return (served[0] if served else None), result.output

    return run


def test_a_key_file_is_asked_for_and_said_so(asked, tmp_path):
    found, said = asked("--keys", str(tmp_path / "keys.json"))
    assert found.key_file == tmp_path / "keys.json"
    assert found.security.door_asks
    assert f"callers need a key of {tmp_path / 'keys.json'}" in said


def test_the_users_own_key_file_counts_where_it_exists(asked):
    assert asked()[0].key_file is None
    default_path().parent.mkdir()
    KeyFile(default_path()).add("alice")
    found, said = asked()
    assert found.key_file == default_path()
    assert "callers need a key" in said
    assert asked("--no-door")[0].key_file is None


def test_tokens_are_asked_for_with_their_issuer_and_audience(asked, tmp_path):
    jwks = tmp_path / "jwks.json"
    jwks.write_text("{}")
    found, _ = asked("--jwks", str(jwks), "--jwt-issuer", "https://issuer.example", "--jwt-audience", "reverie")
    assert found.tokens == TokenIssuer(str(jwks), "https://issuer.example", "reverie")
    assert found.security.door_asks


@pytest.mark.parametrize(
    ("options", "has_gateway", "opens_triton"),
    [
        ((), True, False),
        (("--http",), True, False),
        (("--no-http",), False, False),
        (("--no-door", "--http"), True, True),
    ],
)
def test_http_is_the_gateway_s_behind_the_door_and_triton_s_own_without_it(asked, options, has_gateway, opens_triton):
    found, _ = asked(*options)
    assert (found.has_gateway, found.security.http) == (has_gateway, opens_triton)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--no-door", "--keys", "keys.json"), "asked for by the door"),
        (("--no-door", "--jwks", "https://issuer.example/jwks"), "asked for by the door"),
        (("--jwt-issuer", "x"), "accepted with --jwks"),
        (("--jwt-audience", "x"), "accepted with --jwks"),
    ],
)
def test_options_that_do_not_go_together_are_refused(asked, options, said):
    found, printed = asked(*options)
    assert found is None
    assert said in printed


def test_other_machines_are_let_in_with_a_key_file_and_not_warned_of(tmp_path):
    security = Security(door_asks=True)
    security.check_host("0.0.0.0")
    assert not [line for line in security.warnings("0.0.0.0") if "anybody" in line]
    with pytest.raises(SecurityError, match=r"a key file \(--keys\)"):
        Security().check_host("0.0.0.0")


@pytest.mark.parametrize("has_keys", [True, False])
def test_the_api_key_is_asked_for_where_there_is_no_key_file(tmp_path, has_keys):
    file = tmp_path / "keys.json" if has_keys else None
    found = opening.opening(ListenAddress.free(), Security(api_key="shared", door_asks=has_keys), key_file=file)
    assert found.door.keys.api == (None if has_keys else "shared")
    assert found.door.settings.key_file == file
    assert found.gateway is None and found.door.settings.gateway is None
    found.door.stop()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), (None, None, "shared")),
        (("--keys", "keys.json"), (Path("keys.json"), None, None)),
        (("--jwks", "https://issuer.example/jwks"), (None, TokenIssuer("https://issuer.example/jwks"), None)),
    ],
)
def test_a_door_on_its_own_asks_for_keys_and_tokens_as_reverie_serve_does(monkeypatch, options, expected):
    class Opened(Exception):
        pass

    def note(settings, keys, **_):
        remove_folder(settings.folder)
        raise Opened(settings.key_file, settings.tokens, keys.api)

    monkeypatch.setattr(sidecar, "Door", note)
    cli = typer.Typer()
    cli.command()(sidecar.main)
    arguments = ["--host", "0.0.0.0", *options] if options else []
    result = CliRunner().invoke(cli, arguments, env={"REVERIE_API_KEY": "shared"})
    assert isinstance(result.exception, Opened) and result.exception.args == expected
