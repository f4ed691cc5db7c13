"""What Envoy is told, made of `DoorSettings`: plain dicts in the form of its v3 API.

Listeners, clusters, routes and certificates are files of their own, which Envoy watches: a new file is taken over without
a restart, and one that it cannot take leaves the old one in force. Routes change without a connection being drained.

The HTTP filters of a listener, in this order: cors, grpc_web (from here on a web page's call is a gRPC call), access
(keys and limits, see `Access`), the guard's first look (`guard.lua`, `health.lua`), ext_proc (the guard's look at streams),
router. Knows nothing of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from reverie_client import hosts

from serving.door.settings import DoorSettings, PublicAddress

Dict = dict[str, Any]

GRPC, HTTP = "grpc", "http"
"""The two listeners."""
GUARD, GATEWAY, TRITON = "guard", "gateway", "triton"
"""The clusters behind them."""
_TYPES = "type.googleapis.com/envoy"
_HTTP_FILTERS = "extensions.filters.http"
_ROUTES = "routes"
_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
_STREAM_CHECK = "envoy.filters.http.ext_proc"
_CHECK_SECONDS = 60.0
"""For one piece of a request; a guard that takes longer hangs."""
_LISTENER = "reverie-listener"
"""The header that tells the table of routes which listener has a request; whatever a caller says is written over."""
_MIB = 2**20


@dataclass(frozen=True)
class Access:
    """Who may call, as Envoy is to check it; `serving.door.access` makes one of the settings for each listener.

    Attributes:
        filters: HTTP filters (name and typed_config) that come before the guard.
        per_route: `typed_per_filter_config` of all routes; can change without a connection being drained. It is that of
            gRPC for both listeners, which share a caller's quota.
        clusters: where the filters ask something; their names differ, or they are the same.
    """

    filters: Sequence[Dict] = ()
    per_route: Dict = field(default_factory=dict)
    clusters: Sequence[Dict] = ()


OPEN = Access()
"""Everybody may call."""


def envoy_configuration(settings: DoorSettings, grpc: Access = OPEN, http: Access = OPEN) -> Dict:
    """The whole configuration as one static document: what `envoy --mode validate` checks.

    Args:
        grpc, http: who may call over each.
    """
    listeners = [
        _with_routes(_listener(settings, GRPC, grpc), routes(settings, grpc)),
        _with_routes(_listener(settings, HTTP, http), routes(settings, grpc)),
    ]
    static = {"listeners": listeners, "clusters": _clusters(settings, grpc, http)}
    return {**_bootstrap(settings), "static_resources": static}


def envoy_files(settings: DoorSettings, grpc: Access = OPEN, http: Access = OPEN) -> dict[str, Dict]:
    """The same in files that Envoy watches, by their names in `settings.folder`; `bootstrap.json` is its first."""
    watched = {kind: {"path_config_source": _watched(settings, f"{kind}.json")} for kind in ("listeners", "clusters")}
    dynamic = {"lds_config": watched["listeners"], "cds_config": watched["clusters"]}
    listeners = [_listener(settings, GRPC, grpc), _listener(settings, HTTP, http)]
    return {
        "clusters.json": _resources("config.cluster.v3.Cluster", _clusters(settings, grpc, http)),
        f"{_ROUTES}.json": _resources("config.route.v3.RouteConfiguration", [routes(settings, grpc)]),
        "listeners.json": _resources("config.listener.v3.Listener", listeners),
        "bootstrap.json": {**_bootstrap(settings), "dynamic_resources": dynamic},
    }


def certificate_files(settings: DoorSettings, certificate: Path, key: Path, authority: Path | None) -> dict[str, Dict]:
    """The files that name the certificate, by their names; Envoy reads the PEM files anew when the names have changed."""
    secret = "extensions.transport_sockets.tls.v3.Secret"
    pair = {"certificate_chain": {"filename": str(certificate)}, "private_key": {"filename": str(key)}}
    found = {"certificate.json": _resources(secret, [{"name": "certificate", "tls_certificate": pair}])}
    if authority:
        trusted = {"trusted_ca": {"filename": str(authority)}}
        found["authority.json"] = _resources(secret, [{"name": "authority", "validation_context": trusted}])
    return found


def routes(settings: DoorSettings, access: Access = OPEN) -> Dict:
    """The one table of both listeners, so that a caller has one quota over both; a listener is told by `_LISTENER`.

    Over gRPC everything goes to the guard, but streams go to Triton, and the guard is asked about them: a stream that it were
    not asked about would lack the key that Triton asks for. Over HTTP health is answered by `health.lua`, the rest by the gateway, if there
    is one.
    """
    is_grpc = {"name": _LISTENER, "string_match": {"exact": GRPC}}
    streams = {"match": {"path": _STREAM, "headers": [is_grpc]}, "route": _to(settings, TRITON)}
    over_grpc = {
        "match": {"prefix": "/", "headers": [is_grpc]},
        "route": _to(settings, GUARD),
        "typed_per_filter_config": {
            _STREAM_CHECK: _typed(f"{_HTTP_FILTERS}.ext_proc.v3.ExtProcPerRoute", disabled=True)
        },
    }
    over_http: Dict = {"match": {"prefix": "/"}}
    if settings.gateway:
        over_http["route"] = _to(settings, GATEWAY)
    else:
        text = '{"error": {"message": "there is no HTTP API here; accepted: GET /v2/health/live and /v2/health/ready, or gRPC"}}'
        over_http["direct_response"] = {"status": 501, "body": {"inline_string": text}}
        over_http["response_headers_to_add"] = [{"header": {"key": "content-type", "value": "application/json"}}]
    host: Dict = {"name": "door", "domains": ["*"], "routes": [streams, over_grpc, over_http]}
    filters = dict(access.per_route)
    if settings.cors_origins:
        filters["envoy.filters.http.cors"] = _cors(settings.cors_origins)
    if filters:
        host["typed_per_filter_config"] = filters
    return {"name": _ROUTES, "request_headers_to_remove": [_LISTENER], "virtual_hosts": [host]}


def _to(settings: DoorSettings, cluster: str) -> Dict:
    return {"cluster": cluster, "timeout": "0s", "idle_timeout": _seconds(settings.limits.idle_seconds)}


def _cors(origins: Sequence[str]) -> Dict:
    any_origin = {"safe_regex": {"regex": ".*"}}
    return _typed(
        f"{_HTTP_FILTERS}.cors.v3.CorsPolicy",
        allow_origin_string_match=[any_origin if origin == "*" else {"exact": origin} for origin in origins],
        allow_methods="GET, POST, OPTIONS",
        allow_headers="authorization,content-type,x-grpc-web,x-user-agent,grpc-timeout,reverie-client,reverie-api-key",
        expose_headers="grpc-status,grpc-message,retry-after",
        max_age="600",
    )


def _listener(settings: DoorSettings, name: str, access: Access) -> Dict:
    address = settings.grpc if name == GRPC else settings.http
    chain: Dict = {
        "filters": [_named("envoy.filters.network.http_connection_manager", _manager(settings, name, access))]
    }
    if settings.tls:
        chain["transport_socket"] = _named("envoy.transport_sockets.tls", _tls(settings))
    return {
        "name": name,
        "address": _socket(address),
        "filter_chains": [chain],
        # Another process must not be able to share the port.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": _MIB,
    }


def _manager(settings: DoorSettings, name: str, access: Access) -> Dict:
    limits = settings.limits
    table = {
        "route_config_name": _ROUTES,
        "config_source": {"path_config_source": _watched(settings, f"{_ROUTES}.json")},
    }
    said = {"append": {"header": {"key": _LISTENER, "value": name}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
    say_listener = _typed("extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation", mutations=[said])
    return _typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        codec_type="AUTO",
        rds=table,
        early_header_mutation_extensions=[_named("envoy.http.early_header_mutation.header_mutation", say_listener)],
        http_filters=_filters(settings, name, access),
        use_remote_address=True,
        # The caller's id stays, and is said in the answer; so is Envoy's own where there is none.
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        server_name="reverie",
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        common_http_protocol_options={
            "idle_timeout": _seconds(600),
            "max_headers_count": 100,
            "headers_with_underscores_action": "ALLOW",  # Triton's own has one, which the guard drops.
        },
        http2_protocol_options={
            "max_concurrent_streams": limits.streams,
            "initial_stream_window_size": _MIB,
            "initial_connection_window_size": 4 * _MIB,
        },
        request_headers_timeout=_seconds(limits.header_seconds),
        stream_idle_timeout=_seconds(limits.idle_seconds),
    )


def _filters(settings: DoorSettings, name: str, access: Access) -> list[Dict]:
    script = "guard.lua" if name == GRPC else "health.lua"
    source = (files("serving.door") / script).read_text()
    lua = _typed(f"{_HTTP_FILTERS}.lua.v3.Lua", default_source_code={"inline_string": source})
    web = (
        [_named("envoy.filters.http.grpc_web", _typed(f"{_HTTP_FILTERS}.grpc_web.v3.GrpcWeb"))] if name == GRPC else []
    )
    cors = [_named("envoy.filters.http.cors", _typed(f"{_HTTP_FILTERS}.cors.v3.Cors"))] if settings.cors_origins else []
    router = _named("envoy.filters.http.router", _typed(f"{_HTTP_FILTERS}.router.v3.Router"))
    streams = [_named(_STREAM_CHECK, _stream_check())] if name == GRPC else []
    return [*cors, *web, *access.filters, _named("envoy.filters.http.lua", lua), *streams, router]


def _stream_check() -> Dict:
    """Show the guard what a caller sends in a stream, piece by piece, and the status of the answer."""
    shown = {
        "request_header_mode": "SEND",
        "request_body_mode": "STREAMED",
        "request_trailer_mode": "SKIP",
        "response_header_mode": "SKIP",
        "response_body_mode": "NONE",
        "response_trailer_mode": "SEND",
    }
    return _typed(
        f"{_HTTP_FILTERS}.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": GUARD}},
        processing_mode=shown,
        failure_mode_allow=False,
        message_timeout=_seconds(_CHECK_SECONDS),
        status_on_error={"code": "ServiceUnavailable"},
    )


def _tls(settings: DoorSettings) -> Dict:
    def secret(name: str) -> Dict:
        return {"name": name, "sds_config": {"path_config_source": _watched(settings, f"{name}.json")}}

    assert settings.tls is not None
    common: Dict = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [secret("certificate")],
        "alpn_protocols": ["h2", "http/1.1"],
    }
    if settings.tls.authority:
        common["validation_context_sds_secret_config"] = secret("authority")
    return _typed(
        "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context=common,
        require_client_certificate=settings.tls.authority is not None,
    )


def _clusters(settings: DoorSettings, *access: Access) -> list[Dict]:
    http2 = _typed(
        "extensions.upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}}
    )
    guard = _cluster(settings, GUARD, f"unix:{settings.guard_socket}")
    triton = _cluster(settings, TRITON, f"127.0.0.1:{settings.triton_grpc_port}")
    for cluster in (guard, triton):
        cluster["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2}
    asked = {cluster["name"]: cluster for one in access for cluster in one.clusters}
    return [
        guard,
        triton,
        *([_cluster(settings, GATEWAY, settings.gateway)] if settings.gateway else []),
        *asked.values(),
    ]


def _cluster(settings: DoorSettings, name: str, address: str) -> Dict:
    most = settings.limits.requests
    thresholds = {"max_requests": most, "max_connections": most, "max_pending_requests": most}
    endpoint = {"endpoint": {"address": _upstream(address)}}
    return {
        "name": name,
        "connect_timeout": _seconds(5),
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "circuit_breakers": {"thresholds": [thresholds]},
        "per_connection_buffer_limit_bytes": _MIB,
    }


def _bootstrap(settings: DoorSettings) -> Dict:
    limits = settings.limits
    return {
        "node": {"id": "door", "cluster": "reverie"},
        "admin": {"address": {"pipe": {"path": str(settings.admin_socket), "mode": 0o600}}},
        "overload_manager": {
            "refresh_interval": "0.25s",
            "resource_monitors": [
                _named(
                    "envoy.resource_monitors.fixed_heap",
                    _typed(
                        "extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                        max_heap_size_bytes=limits.heap_bytes,
                    ),
                ),
                _named(
                    "envoy.resource_monitors.global_downstream_max_connections",
                    _typed(
                        "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        max_active_downstream_connections=limits.connections,
                    ),
                ),
            ],
            "actions": [
                _above("envoy.overload_actions.stop_accepting_requests", 0.95),
                _above("envoy.overload_actions.disable_http_keepalive", 0.9),
            ],
        },
    }


def _above(action: str, share: float) -> Dict:
    trigger = {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": share}}
    return {"name": action, "triggers": [trigger]}


def _with_routes(listener: Dict, routes: Dict) -> Dict:
    """The routes in the listener itself instead of in a file beside it."""
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = routes
    return listener


def _watched(settings: DoorSettings, name: str) -> Dict:
    return {"path": str(settings.folder / name), "watched_directory": {"path": str(settings.folder)}}


def _resources(kind: str, resources: Sequence[Dict]) -> Dict:
    return {"resources": [{**_typed(kind), **resource} for resource in resources]}


def _named(name: str, configuration: Dict) -> Dict:
    return {"name": name, "typed_config": configuration}


def _typed(kind: str, **fields: Any) -> Dict:
    return {"@type": f"{_TYPES}.{kind}", **fields}


def _seconds(seconds: float) -> str:
    return f"{seconds:g}s"


def _socket(address: PublicAddress) -> Dict:
    return {"socket_address": {"address": address.host.strip("[]"), "port_value": address.port}}


def _upstream(address: str) -> Dict:
    if address.startswith("unix:"):
        return {"pipe": {"path": address.removeprefix("unix:")}}
    host, port = hosts.split(address)
    return {"socket_address": {"address": host, "port_value": port}}
