"""Files of deploy/ parse, name each other rightly, and agree with the code: options, settings, modules, metrics, versions."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from orchestrator.service import up
from orchestrator.service.settings import keys, variable

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
KUBERAY = DEPLOY / "kuberay"
OBJECTS: list[dict[str, Any]] = [
    item
    for file in sorted(KUBERAY.glob("*.yaml"))
    if file.name != "kustomization.yaml"
    for item in yaml.safe_load_all(file.read_text())
]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SETTINGS = {variable(key) for key in keys()}
OTHERS = {"MGRD_STATE", "MGRD_CACHE", "MGRD_ROOT_TOKEN", "MGRD_URL", "MGRD_TOKEN", "MGRD_REDIS_PASSWORD"}


def options_of_up() -> set[str]:
    app = typer.Typer()
    app.command()(up.up_command)
    return {option for parameter in typer.main.get_command(app).params for option in parameter.opts}


def pods() -> list[tuple[str, dict[str, Any]]]:
    """(name, pod spec) of everything that makes pods."""
    out = []
    for item in OBJECTS:
        name, spec = item["metadata"]["name"], item.get("spec", {})
        if item["kind"] in ("Deployment", "StatefulSet"):
            out.append((name, spec["template"]["spec"]))
        if item["kind"] == "RayCluster":
            groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
            out += [(name, group["template"]["spec"]) for group in groups]
    return out


def named(kind: str) -> set[str]:
    return {item["metadata"]["name"] for item in OBJECTS if item["kind"] == kind}


def variables(text: str) -> set[str]:
    return set(re.findall(r"\bMGRD_[A-Z_]+\b", text))


def metric_names() -> set[str]:
    """As Prometheus reads them, from the source of the API's registry."""
    source = ast.parse((ROOT / "orchestrator/service/api/metrics.py").read_text())
    names = set()
    for call in [node for node in ast.walk(source) if isinstance(node, ast.Call) and node.args]:
        first, kind = call.args[0], ast.unparse(call.func)
        if isinstance(first, ast.Constant) and str(first.value).startswith("mgrd_"):
            endings = {
                "Counter": ["_total"],
                "CounterMetricFamily": ["_total"],
                "Histogram": ["_bucket", "_count", "_sum"],
            }
            names |= {f"{first.value}{ending}" for ending in endings.get(kind, [""])}
    return names


def test_every_object_has_a_kind_a_version_and_a_name_of_its_own() -> None:
    seen = [(item["kind"], item["apiVersion"], item["metadata"]["name"]) for item in OBJECTS]
    assert len(seen) == len(set(seen)) >= 15


def test_kustomization_names_every_file_but_the_example_of_the_secret() -> None:
    listed = set(yaml.safe_load((KUBERAY / "kustomization.yaml").read_text())["resources"])
    assert listed == {file.name for file in KUBERAY.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_renders_all_of_it() -> None:
    rendered = subprocess.run(
        ["kubectl", "kustomize", str(KUBERAY)], capture_output=True, text=True, check=False, timeout=60
    )
    assert rendered.returncode == 0, rendered.stderr
    items = list(yaml.safe_load_all(rendered.stdout))
    assert len(items) == len(OBJECTS), "without the secret, with the settings"
    images = set(re.findall(r"image: (\S+)", rendered.stdout))
    assert images == {"registry.example/mgrd:gpu", "valkey/valkey:8-alpine"}


@pytest.mark.parametrize(("name", "pod"), pods(), ids=[f"{name}-{i}" for i, (name, _) in enumerate(pods())])
def test_pod_mounts_and_reads_only_what_is_declared_and_is_not_root(name: str, pod: dict[str, Any]) -> None:
    claims = named("PersistentVolumeClaim")
    owner = next(
        item
        for item in OBJECTS
        if item["metadata"]["name"] == name and item["kind"] in ("Deployment", "StatefulSet", "RayCluster")
    )
    templates = {claim["metadata"]["name"] for claim in owner["spec"].get("volumeClaimTemplates", [])}
    volumes = {volume["name"] for volume in pod.get("volumes", [])} | templates
    for volume in pod.get("volumes", []):
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in claims
    secret = next(item for item in OBJECTS if item["kind"] == "Secret")
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
        for row in container.get("env", []):
            if "valueFrom" in row:
                reference = row["valueFrom"]["secretKeyRef"]
                assert reference["name"] == secret["metadata"]["name"]
                assert reference["key"] in secret["stringData"]


def test_services_lead_to_pods() -> None:
    labels = [
        item["spec"]["template"]["metadata"]["labels"]
        for item in OBJECTS
        if item["kind"] in ("Deployment", "StatefulSet")
    ]
    for item in OBJECTS:
        if item["kind"] == "Service":
            assert any(item["spec"]["selector"].items() <= row.items() for row in labels), item["metadata"]["name"]


def test_addresses_in_the_settings_are_those_of_the_services() -> None:
    text = (KUBERAY / "settings.env").read_text() + (KUBERAY / "secret.example.yaml").read_text()
    hosts = set(re.findall(r"(?:@|//|=)(mgrd-[a-z-]+):\d+", text))
    ray_service = f"{next(iter(named('RayCluster')))}-head-svc"  # the operator makes it under this name
    assert hosts == {"mgrd-redis", "mgrd-mlflow", ray_service}
    assert {"mgrd-redis", "mgrd-mlflow"} <= named("Service")


def test_two_schedulers_share_one_volume_with_every_machine_that_runs_experiments() -> None:
    scheduler = next(
        item for item in OBJECTS if item["metadata"]["name"] == "mgrd-scheduler" and item["kind"] == "Deployment"
    )
    assert scheduler["spec"]["replicas"] == 2
    for name, pod in pods():
        if name in ("mgrd-scheduler", "mgrd-api", "mgrd-ray"):
            mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
            assert "/mgrd" in mounts, name
    assert {"MGRD_STATE=/mgrd/state", "MGRD_CACHE=/mgrd/cache"} <= set((KUBERAY / "settings.env").read_text().split())


def test_ray_is_of_the_version_of_the_lock() -> None:
    cluster = next(item for item in OBJECTS if item["kind"] == "RayCluster")
    assert f"ray=={cluster['spec']['rayVersion']}" in (ROOT / "requirements/cpu.lock").read_text().split()


@pytest.mark.parametrize(
    "file", [file for file in sorted(DEPLOY.rglob("*")) if file.is_file()], ids=lambda file: file.name
)
def test_variables_are_settings_and_modules_exist(file: Path) -> None:
    text = file.read_text()
    assert variables(text) <= SETTINGS | OTHERS
    for module in re.findall(r"python(?:\",|) (?:\")?-m(?:\",|) (?:\")?(orchestrator[\w.]+)", text):
        assert importlib.util.find_spec(module), module


def test_options_given_to_mgrd_up_exist() -> None:
    commands = [*COMPOSE["services"]["mgrd"]["command"]]
    commands += (
        (DEPLOY / "slurm" / "mgrd.sbatch")
        .read_text()
        .split('bin/mgrd" up', 1)[1]
        .split(" &\n")[0]
        .replace("\\", "")
        .split()
    )
    for name in ("cpu", "gpu"):
        commands += json.loads(re.search(r"^CMD (\[.*)$", (DEPLOY / f"docker/Dockerfile.{name}").read_text(), re.M)[1])
    given = {word for word in commands if word.startswith("--")}
    assert {"--foreground", "--ray-address", "--set"} <= given
    assert given <= options_of_up()
    assert {word.split("=")[0] for before, word in itertools.pairwise(commands) if before == "--set"} <= set(keys())


def test_compose_waits_for_what_is_healthy_and_keeps_data_in_volumes() -> None:
    services, volumes = COMPOSE["services"], set(COMPOSE["volumes"])
    for name, service in services.items():
        for other, wait in service.get("depends_on", {}).items():
            assert wait["condition"] == "service_healthy"
            assert "healthcheck" in services[other]
        assert {mount.split(":")[0] for mount in service["volumes"]} <= volumes, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    assert "--appendonly yes" in services["redis"]["command"][-1]


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_image_copies_what_exists_is_not_root_and_is_asked_for_its_health(name: str) -> None:
    text = (DEPLOY / f"docker/Dockerfile.{name}").read_text()
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    assert re.search(r"^USER mgrd$", text, re.M)
    assert "/healthz" in re.search(r"HEALTHCHECK(.|\n)*?CMD (.*)$", text, re.M)[2]
    packages = {line.split()[1] for line in re.findall(r"^COPY \w+ \w+$", text, re.M)}
    assert packages == {"orchestrator", "rewards", "rollout", "actor"}


def test_dashboard_and_alerts_ask_for_metrics_that_the_api_has() -> None:
    known = metric_names()
    assert {"mgrd_queue_length", "mgrd_policy_updates_total", "mgrd_http_request_seconds_bucket"} <= known
    dashboard = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    alerts = yaml.safe_load((DEPLOY / "grafana/alerts.yml").read_text())
    asked += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    names = {name for expression in asked for name in re.findall(r"\bmgrd_\w+", expression)}
    assert names - known == set()
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_alert_rules_have_what_people_need_and_prometheus_reads_them() -> None:
    prometheus = yaml.safe_load((DEPLOY / "grafana/prometheus.yml").read_text())
    assert all((DEPLOY / "grafana" / file).is_file() for file in prometheus["rule_files"])
    for group in yaml.safe_load((DEPLOY / "grafana/alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert {"alert", "expr", "labels", "annotations"} <= set(rule)
            assert {"summary", "description"} <= set(rule["annotations"])


def test_script_for_slurm_is_valid_shell() -> None:
    checked = subprocess.run(
        ["bash", "-n", str(DEPLOY / "slurm/mgrd.sbatch")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
