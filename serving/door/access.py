"""Who calls, as Envoy is told to check it: keys and tokens, the caller's name for the server, and how often he may call.

The check is `access.lua`, which finds a key by its SHA-256 among those of the key file; Envoy's own filters for keys
compare them as they are, so that they would have to be written down. Behind it `rbac` refuses what the script has not
let in, should it ever fail, and `local_ratelimit` keeps each key to its quota. What the keys open lies in the table of
routes (`Access.per_route`), which Envoy takes over without a restart and without ending a connection.

What is beyond a request's headers, calls at the same time and the models that a message names, is looked at in the guard:
the door tells it the caller's limits in a header (see `limits.py`).
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serving.door.configuration import Access
from serving.door.keys import Caller, Callers, KeyFile, Quota
from serving.door.limits import CallerLimits
from serving.door.settings import DoorSettings, TokenIssuer

_TYPES = "type.googleapis.com/envoy"
_HTTP = "extensions.filters.http"
_CHECK, _CLOSED, _QUOTA, _TOKEN = "reverie.access", "reverie.closed", "reverie.quota", "reverie.token"
_COUNT = "reverie.count"
_STATE = "reverie.access"
"""Where `access.lua` leaves what it has found, for the filters behind it."""
_ISSUER = "issuer"
_ANY_NUMBER = {"max_tokens": 2**32 - 1, "tokens_per_fill": 2**32 - 1, "fill_interval": "1s"}
_JWKS_CACHE_S = 300


def access_of(settings: DoorSettings, listener: str) -> Access:
    """Who may call a door as its settings say, with the key file as it is now; the same for every listener.

    Raises:
        KeyFileError: the key file is missing, or not accepted.
    """
    return access(KeyFile(settings.key_file).callers() if settings.key_file else None, settings.tokens)


def access(callers: Callers | None = None, tokens: TokenIssuer | None = None) -> Access:
    """Let in whoever has a key of `callers` or a token of `tokens`; with neither, everybody, named by his address.

    `Access.filters` depends on `tokens` alone, so that a change of `callers` is one of `Access.per_route`.

    Args:
        callers: those of the key file; none of them lets nobody in, and None means that no keys are asked for.
    """
    return Access(filters=_filters(tokens), per_route=_per_route(callers, tokens), clusters=_clusters(tokens))


def _filters(tokens: TokenIssuer | None) -> list[dict[str, Any]]:
    script = "".join((files("serving.door") / name).read_text() for name in ("sha256.lua", "access.lua"))
    check = _typed("lua.v3.Lua", default_source_code={"inline_string": script}, stat_prefix="access")
    quota = _typed(
        "local_ratelimit.v3.LocalRateLimit", stat_prefix="quota"
    )  # Without a route there is nothing to limit.
    token = [(_TOKEN, _token_check(tokens))] if tokens else []
    count = _typed("grpc_stats.v3.FilterConfig", stats_for_all_methods=False)  # By status; before anybody is refused.
    named = [(_COUNT, count), *token, (_CHECK, check), (_CLOSED, _closed()), (_QUOTA, quota)]
    return [{"name": name, "typed_config": configuration} for name, configuration in named]


def _per_route(callers: Callers | None, tokens: TokenIssuer | None) -> dict[str, Any]:
    context: dict[str, Any] = {
        "mode": "anonymous" if callers is None and tokens is None else "keys",
        "tokens": tokens is not None,
        **{f"key:{caller.sha256}": _told(name, caller) for name, caller in (callers or {}).items()},
    }
    return {_CHECK: _typed("lua.v3.LuaPerRoute", filter_context=context), _QUOTA: _quotas(callers or {})}


def _told(name: str, caller: Caller) -> dict[str, Any]:
    """What `access.lua` is told of one caller; what is not there is not limited."""
    told = {"name": name, "quota": caller.quota, "admin": caller.admin, "models": list(caller.models)}
    limits = CallerLimits(caller.models, caller.streams, caller.body_mib, caller.admin).header()
    return {**{field: value for field, value in told.items() if value}, "limits": limits} | (
        {"body_mib": caller.body_mib} if caller.body_mib else {}
    )


def _closed() -> dict[str, Any]:
    """Let only those in of whom the script has said so: where a script fails, Envoy goes on without it."""
    admitted = {"filter": _STATE, "path": [{"key": "admitted"}], "value": {"present_match": True}}
    principal = {"sourced_metadata": {"metadata_matcher": admitted}}
    policy = {"permissions": [{"any": True}], "principals": [principal]}
    return _typed("rbac.v3.RBAC", rules={"action": "ALLOW", "policies": {"admitted": policy}})


def _quotas(callers: Callers) -> dict[str, Any]:
    limits = [
        {"entries": [{"key": "caller", "value": name}], "token_bucket": _bucket(Quota.parse(caller.quota))}
        for name, caller in callers.items()
        if caller.quota
    ]
    by_name = {"descriptor_key": "caller", "metadata_key": {"key": _STATE, "path": [{"key": "caller"}]}}
    everything = {"default_value": {"numerator": 100}}
    return _typed(
        "local_ratelimit.v3.LocalRateLimit",
        stat_prefix="quota",
        token_bucket=_ANY_NUMBER,
        always_consume_default_token_bucket=False,
        filter_enabled=everything,
        filter_enforced=everything,
        descriptors=limits,
        rate_limits=[{"actions": [{"metadata": {**by_name, "source": "DYNAMIC", "skip_if_absent": True}}]}],
        rate_limited_as_resource_exhausted=True,
        enable_retry_after_header=True,
        # `access.lua` finds the limiter's answers by it, and takes it away.
        response_headers_to_add=[{"header": {"key": "reverie-refused", "value": "quota"}}],
    )


def _bucket(quota: Quota) -> dict[str, Any]:
    return {"max_tokens": quota.calls, "tokens_per_fill": quota.calls, "fill_interval": f"{quota.seconds}s"}


def _token_check(tokens: TokenIssuer) -> dict[str, Any]:
    """Look at every token and say what was found; `access.lua` refuses, in the words of the protocol."""
    provider: dict[str, Any] = {
        **({"issuer": tokens.issuer} if tokens.issuer else {}),
        **({"audiences": [tokens.audience]} if tokens.audience else {}),
        **_public_keys(tokens),
        "require_expiration": True,
        "forward": True,
        "from_headers": [{"name": "Authorization", "value_prefix": f"{scheme} "} for scheme in ("Bearer", "bearer")],
        "payload_in_metadata": "payload",
        "failed_status_in_metadata": "status",
        "clock_skew_seconds": 30,
    }
    any_of = {"requires_any": {"requirements": [{"provider_name": _ISSUER}, {"allow_missing_or_failed": {}}]}}
    rule = {"match": {"prefix": "/"}, "requires": any_of}
    return _typed("jwt_authn.v3.JwtAuthentication", providers={_ISSUER: provider}, rules=[rule])


def _public_keys(tokens: TokenIssuer) -> dict[str, Any]:
    if not tokens.is_remote:
        return {"local_jwks": {"filename": str(Path(tokens.jwks).absolute())}}
    remote = {
        "http_uri": {"uri": tokens.jwks, "cluster": _ISSUER, "timeout": "5s"},
        "cache_duration": f"{_JWKS_CACHE_S}s",
        # Before the first caller, who need not wait, and without which nobody is let in.
        "async_fetch": {"fast_listener": True, "failed_refetch_duration": "1s"},
    }
    return {"remote_jwks": remote}


def _clusters(tokens: TokenIssuer | None) -> list[dict[str, Any]]:
    """Where the issuer's keys are fetched from; over TLS with the machine's own list of authorities."""
    if tokens is None or not tokens.is_remote:
        return []
    address = urlsplit(tokens.jwks)
    is_secure = address.scheme == "https"
    host, port = address.hostname or "", address.port or (443 if is_secure else 80)
    socket = {"socket_address": {"address": host, "port_value": port}}
    cluster: dict[str, Any] = {
        "name": _ISSUER,
        "type": "STRICT_DNS",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": _ISSUER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket}}]}],
        },
    }
    if is_secure:
        cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": _trusting(host)}
    return [cluster]


def _trusting(host: str) -> dict[str, Any]:
    import ssl

    trusted = {
        "trusted_ca": {"filename": ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"}
    }
    names = {"match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": host}}]}
    return {
        "@type": f"{_TYPES}.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": host,
        "common_tls_context": {"validation_context": {**trusted, **names}},
    }


def _typed(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"{_TYPES}.{_HTTP}.{kind}", **fields}
