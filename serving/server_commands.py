"""Commands that start a server: `reverie serve`, and `reverie demo`, which also calls it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.door.key_commands import KEYS_VARIABLE, default_path
from serving.telemetry import logs
from serving.telemetry.logs import LogFormat, LogLevel

if TYPE_CHECKING:
    from serving.door.settings import TokenIssuer

RepositoryOption = Annotated[Path, typer.Option("--repository", help="Model repository to serve.")]


def serve(
    repository: RepositoryOption = Path("model_repository"),
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in, and needs both keys.")
    ] = "127.0.0.1",
    grpc_port: int = 8001,
    http_port: int = 8000,
    metrics_port: int = 8002,
    metrics_host: Annotated[
        str, typer.Option(help="Address of the metrics, which have no key: whoever reaches it may read them.")
    ] = "127.0.0.1",
    http: Annotated[
        bool | None,
        typer.Option(
            "--http/--no-http",
            help="Answer /v1 and /docs over HTTP, beside health; default with the door. With --no-door, --http opens "
            "Triton's own HTTP for inference.",
        ),
    ] = None,
    door: Annotated[
        bool,
        typer.Option(
            help="Envoy and a guard in front of Triton, which refuse what harms it; --no-door lets all reach it."
        ),
    ] = True,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Let web pages of this origin call; may be repeated, * lets all.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let other machines in without keys; says what is open then.")
    ] = False,
    weights_dir: Annotated[
        Path | None, typer.Option(help="Folder with ImageNet weights of VGG19 and InceptionV3.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate (PEM): nothing is answered without TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's key (PEM).")] = None,
    tls_clients: Annotated[
        Path | None, typer.Option(help="Authority (PEM) whose clients alone are let in, with their certificates.")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="Holds the key asked for with every call. Default: $REVERIE_API_KEY_FILE, else the key in $REVERIE_API_KEY."
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            envvar=KEYS_VARIABLE,
            help="Key file ('reverie keys') of those who may call. Default: the one 'reverie keys' makes, where it exists.",
        ),
    ] = None,
    jwks: Annotated[
        str | None, typer.Option(help="Let in whoever has a token (JWT) signed with these keys: a file, or https://...")
    ] = None,
    jwt_issuer: Annotated[str, typer.Option(help="What a token's iss must be.")] = "",
    jwt_audience: Annotated[str, typer.Option(help="What must be among a token's aud.")] = "",
    control_key_file: Annotated[
        Path | None,
        typer.Option(
            help="Holds the key asked for where models are loaded. Default: $REVERIE_CONTROL_KEY_FILE, else the key in "
            "$REVERIE_CONTROL_KEY, else a random one that `export` and `models` find on this machine.",
        ),
    ] = None,
    memory_limit: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="GiB that Triton itself, without its models, may take. Default: half of the machine's."
        ),
    ] = None,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Write a line of JSON to stderr for each request; see docs/logs.md.")
    ] = False,
    log_level: Annotated[
        LogLevel, typer.Option(envvar=logs.LEVEL_VARIABLE, help="The least that is logged, by Triton too.")
    ] = LogLevel.warning,
    log_format: Annotated[
        LogFormat, typer.Option(envvar=logs.FORMAT_VARIABLE, help="Of our own lines on stderr; Triton's are text.")
    ] = LogFormat.text,
) -> None:
    """Serve the model repository until SIGINT or SIGTERM; what ends by itself is started again."""
    from reverie_client import credentials
    from reverie_client.credentials import Tls

    from serving.security import Security
    from serving.service import Service, run
    from serving.triton import memory
    from serving.triton.address import ListenAddress

    # Of all processes that are started from here.
    os.environ.update(logs.environment(log_level, log_format, access_log))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    key_file, tokens = _who_calls(keys, jwks, jwt_issuer, jwt_audience, door)
    tls = Tls(tls_clients, tls_cert, tls_key) if tls_cert or tls_key or tls_clients else None
    api_key = credentials.read_key(credentials.API_KEY_VARIABLE, api_key_file)
    control_key = credentials.read_key(credentials.CONTROL_KEY_VARIABLE, control_key_file)
    if too_little := memory.shared_memory_warning():
        typer.echo(f"warning: {too_little}", err=True)
    run(
        Service(
            repository=repository,
            listen=ListenAddress(host, grpc_port, http_port, metrics_port, metrics_host),
            security=Security(
                tls, api_key, control_key, bool(http) and not door, insecure, door_asks=bool(key_file or tokens)
            ),
            environment={"REVERIE_WEIGHTS_DIR": str(weights_dir.resolve())} if weights_dir else {},
            memory_bytes=memory.default_limit() if memory_limit is None else int(memory_limit * 2**30),
            has_door=door,
            has_gateway=http is not False,
            cors_origins=tuple(cors_origin or ()),
            key_file=key_file,
            tokens=tokens,
        ),
        stop,
    )
    typer.echo("stopping")


def _who_calls(
    keys: Path | None, jwks: str | None, issuer: str, audience: str, has_door: bool
) -> tuple[Path | None, TokenIssuer | None]:
    """The key file and the issuer of tokens that the door asks, and word of it to the person who starts it."""
    from serving.door.settings import TokenIssuer

    if not has_door and (keys or jwks):
        raise typer.BadParameter("keys and tokens are asked for by the door; accepted without --no-door")
    if (issuer or audience) and not jwks:
        raise typer.BadParameter(
            "they say which tokens count; accepted with --jwks", param_hint="--jwt-issuer, --jwt-audience"
        )
    found = keys or (default_path() if has_door and default_path().exists() else None)
    asked = [f"a key of {found}"] * bool(found) + [f"a token of {jwks}"] * bool(jwks)
    if asked:
        typer.echo(f"callers need {' or '.join(asked)}; no API key is asked for beside it", err=True)
    return found, TokenIssuer(jwks, issuer, audience) if jwks else None


def demo(
    repository: RepositoryOption = Path("model_repository"),
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("out/demo"),
) -> None:
    """Run the main job on the shipped models and write a gallery."""
    from serving.demo.run import run_demo

    sys.exit(0 if run_demo(repository, out) else 1)
