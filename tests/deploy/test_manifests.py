"""The Kubernetes manifests say what the code does."""

from __future__ import annotations

import copy
import re
import subprocess
from typing import Any

import pytest
import yaml

from deploy import manifests
from deploy.restricted import problems
from migrator.errors import Exit
from services.kit.health import LIVENESS, READINESS
from services.kit.server import GRACE_SECONDS

Manifest = dict[str, Any]
MODULES = {
    "auth": "services.auth",
    "symbols": "services.symbols",
    "ingest": "services.ingest",
    "worker": "services.ingest.worker",
}
PROCESSES = tuple(MODULES)
SERVED = ("auth", "symbols", "ingest")
NAMESPACES = {
    ("mdw-client", "true"): "clients",
    ("mdw-monitoring", "true"): "prometheus",
    ("kubernetes.io/metadata.name", "cnpg-system"): "operator",
}


@pytest.fixture(scope="module", params=manifests.OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Manifest]:
    return list(yaml.safe_load_all(manifests.render(request.param)))


def _of_kind(overlay: list[Manifest], *kinds: str) -> list[Manifest]:
    return [one for one in overlay if one["kind"] in kinds]


def _named(overlay: list[Manifest], kind: str, name: str) -> Manifest:
    return next(one for one in _of_kind(overlay, kind) if one["metadata"]["name"] == name)


def _pods(overlay: list[Manifest]) -> list[Manifest]:
    return [one["spec"]["template"]["spec"] for one in _of_kind(overlay, "Deployment", "StatefulSet", "Job")]


def _containers(overlay: list[Manifest]) -> list[Manifest]:
    return [container for pod in _pods(overlay) for container in [*pod.get("initContainers", ()), *pod["containers"]]]


def test_every_manifest_is_valid_to_the_last_field(tmp_path) -> None:
    assert manifests.validate(manifests.render("dev"), tmp_path) == set()
    operators = {"Certificate", "Cluster", "Issuer", "PodMonitor", "PrometheusRule", "ScheduledBackup"}
    assert manifests.validate(manifests.render_with(*manifests.OPTIONAL), tmp_path) == operators


def test_a_field_that_kubernetes_does_not_know_is_refused(tmp_path) -> None:
    deployment = _named(manifests.parsed(manifests.render("dev")), "Deployment", "auth")
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}

    with pytest.raises(subprocess.CalledProcessError):
        manifests.validate(yaml.safe_dump(deployment), tmp_path)


def test_the_job_is_named_by_the_migrations(overlay) -> None:
    (job,) = _of_kind(overlay, "Job")

    assert job["metadata"]["name"] == f"mdw-migrate-{manifests.digest()}", "run make manifests"


def test_the_digest_changes_with_a_file_and_with_its_name(tmp_path) -> None:
    (tmp_path / "0001_a.sql").write_text("SELECT 1")
    first = manifests.digest(tmp_path)
    (tmp_path / "0001_a.sql").rename(tmp_path / "0001_b.sql")
    second = manifests.digest(tmp_path)
    (tmp_path / "0001_b.sql").write_text("SELECT 2")

    assert len({first, second, manifests.digest(tmp_path)}) == 3


def test_pods_run_under_the_restricted_profile(overlay) -> None:
    assert len(_pods(overlay)) >= 5
    assert problems(overlay) == []


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("hostNetwork", True, "hostNetwork is set"),
        ("automountServiceAccountToken", True, "automountServiceAccountToken is not false"),
        ("securityContext", {"runAsNonRoot": False}, "securityContext.runAsNonRoot is False, not True"),
        ("volumes", [{"name": "v", "hostPath": {"path": "/"}}], "volume v is a hostPath"),
        ("initContainers", [{"name": "i"}], "container i: securityContext.readOnlyRootFilesystem is None, not True"),
        ("initContainers", [{"name": "i"}], "container i: no limit of memory"),
        (
            "initContainers",
            [{"name": "i", "securityContext": {"privileged": True}, "ports": [{"hostPort": 1}]}],
            "container i: privileged, or root",
        ),
    ],
)
def test_what_the_profile_refuses_is_named(overlay, field, value, said) -> None:
    deployment = copy.deepcopy(_named(overlay, "Deployment", "auth"))
    deployment["spec"]["template"]["spec"][field] = value

    assert f"Deployment auth: {said}" in problems([deployment])


def test_a_pod_has_time_to_drain_and_to_stop(overlay) -> None:
    drain = float(_config(overlay)["DRAIN_SECONDS"])
    for name in PROCESSES:
        pod = _named(overlay, "Deployment", name)["spec"]["template"]["spec"]

        assert pod["terminationGracePeriodSeconds"] >= drain + GRACE_SECONDS + 5
        for container in pod["containers"]:
            if "readinessProbe" in container:
                assert drain >= 2 * container["readinessProbe"]["periodSeconds"], "clients must see it first"


def test_probes_ask_for_what_the_health_service_knows(overlay) -> None:
    port = int(_config(overlay)["HEALTH_ADDRESS"].rpartition(":")[2])
    for name in SERVED:
        (container,) = _named(overlay, "Deployment", name)["spec"]["template"]["spec"]["containers"]

        assert container["livenessProbe"]["grpc"] == {"port": port, "service": LIVENESS}
        assert container["startupProbe"]["grpc"] == {"port": port, "service": LIVENESS}
        assert container["readinessProbe"]["grpc"] == {"port": port, "service": READINESS}


def test_every_process_gets_only_settings_that_it_reads(overlay) -> None:
    for name in PROCESSES:
        (container,) = _named(overlay, "Deployment", name)["spec"]["template"]["spec"]["containers"]
        known = _settings_of(container["command"][2]) | {"DATABASE_USER", "DATABASE_PASSWORD"}

        assert {one["name"] for one in container["env"]} <= known


def test_the_guide_lists_every_setting_and_who_reads_it() -> None:
    guide = (manifests.ROOT / "docs" / "operations.md").read_text()
    listed: dict[str, set[str]] = {}
    for names, processes in re.findall(r"^\| (`[A-Z_`, ]+`) \| ([a-z, ]+) \|", guide, re.MULTILINE):
        for name in names.split(", "):
            listed[name.strip("`")] = set(processes.split(", "))
    real: dict[str, set[str]] = {}
    for process, module in MODULES.items():
        for name in _settings_of(module):
            real.setdefault(name, set()).add(process)

    assert listed == real


def test_selectors_meet_their_pods(overlay) -> None:
    labels = [
        one["spec"]["template"]["metadata"]["labels"] for one in _of_kind(overlay, "Deployment", "StatefulSet", "Job")
    ]
    for one in _of_kind(overlay, "Service", "PodDisruptionBudget", "Deployment"):
        selector = one["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)

        assert sum(wanted.items() <= found.items() for found in labels) == 1, one["metadata"]["name"]


def test_services_are_headless_so_that_clients_see_every_pod(overlay) -> None:
    for name in SERVED:
        assert _named(overlay, "Service", name)["spec"]["clusterIP"] == "None"


def test_the_job_gives_up_on_all_but_try_again(overlay) -> None:
    (job,) = _of_kind(overlay, "Job")
    rules = job["spec"]["podFailurePolicy"]["rules"]

    assert [rule["action"] for rule in rules] == ["Ignore", "FailJob"]
    assert rules[1]["onExitCodes"]["operator"] == "NotIn"
    assert rules[1]["onExitCodes"]["values"] == [int(Exit.TRY_AGAIN)]
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_every_secret_key_is_documented(overlay) -> None:
    guide = (manifests.ROOT / "docs" / "operations.md").read_text()
    for container in _containers(overlay):
        for one in container.get("env", ()):
            reference = one.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                assert f"`{reference['name']}`" in guide
                assert f"`{reference['key']}`" in guide
    for pod in _pods(overlay):
        for volume in pod.get("volumes", ()):
            if "secret" in volume:
                assert f"`{volume['secret']['secretName']}`" in guide


def test_network_policies_allow_exactly_the_edges_that_exist(overlay) -> None:
    policies = _of_kind(overlay, "NetworkPolicy")
    edges = {edge for policy in policies for edge in _edges(policy)}
    if _of_kind(overlay, "Cluster"):  # production: monitoring, and a database of several instances with an operator
        edges -= {
            ("prometheus", "all", "metrics"),
            ("prometheus", "database", 9187),
            ("database", "database", 5432),
            ("database", "database", 8000),
            ("operator", "database", 5432),
            ("operator", "database", 8000),
        }

    assert edges == {
        ("all", "dns", 53),
        ("all", "database", 5432),
        ("clients", "auth", "grpc"),
        ("clients", "symbols", "grpc"),
        ("clients", "ingest", "grpc"),
        ("symbols", "auth", 15051),
        ("ingest", "auth", 15051),
        ("worker", "symbols", 15052),
        ("worker", "provider", 443),
    }
    assert _named(overlay, "NetworkPolicy", "mdw-default-deny")["spec"]["policyTypes"] == ["Ingress", "Egress"]


def _config(overlay: list[Manifest]) -> dict[str, str]:
    return next(
        one
        for one in _of_kind(overlay, "ConfigMap")
        if one["metadata"]["name"].startswith("mdw-") and "DRAIN_SECONDS" in one["data"]
    )["data"]


def _settings_of(module: str) -> set[str]:
    from dataclasses import fields  # noqa: PLC0415
    from importlib import import_module  # noqa: PLC0415

    package, name = {
        "services.auth": ("services.auth.settings", "AuthSettings"),
        "services.symbols": ("services.symbols.settings", "SymbolsSettings"),
        "services.ingest": ("services.ingest.settings", "IngestSettings"),
        "services.ingest.worker": ("services.ingest.worker_settings", "WorkerSettings"),
    }[module]
    return {item.name.upper() for item in fields(getattr(import_module(package), name))}


def _edges(policy: Manifest) -> set[tuple[Any, Any, Any]]:
    chosen = _names(policy["spec"]["podSelector"])
    edges = set()
    for rule in policy["spec"].get("egress", ()):
        edges |= {(one, _peer(to), port["port"]) for one in chosen for to in rule["to"] for port in rule["ports"]}
    for rule in policy["spec"].get("ingress", ()):
        edges |= {
            (source, one, port["port"])
            for one in chosen
            for origin in rule["from"]
            for source in _sources(origin)
            for port in rule["ports"]
        }
    return edges


def _names(selector: Manifest) -> list[str]:
    if selector.get("matchLabels", {}).get("app.kubernetes.io/part-of"):
        return ["all"]
    if selector.get("matchLabels", {}).get("cnpg.io/cluster"):
        return ["database"]
    names = [value for rule in selector.get("matchExpressions", ()) for value in rule["values"]]
    names += [selector["matchLabels"]["app.kubernetes.io/name"]] if "matchLabels" in selector else []
    return ["all"] if set(names) == set(PROCESSES) else names


def _peer(to: Manifest) -> str:
    if "ipBlock" in to:
        return "provider"
    if "namespaceSelector" in to:
        return "dns"
    labels = to["podSelector"]["matchLabels"]
    return "database" if "cnpg.io/cluster" in labels else str(labels["app.kubernetes.io/name"])


def _sources(origin: Manifest) -> list[str]:
    if "namespaceSelector" in origin:
        (label,) = origin["namespaceSelector"]["matchLabels"].items()
        return [NAMESPACES[label]]
    return _names(origin["podSelector"])


def test_files_that_settings_name_are_mounted(overlay) -> None:
    for name in PROCESSES:
        pod = _named(overlay, "Deployment", name)["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            mounts = {one["mountPath"]: volumes[one["name"]] for one in container["volumeMounts"]}
            for variable in container["env"]:
                if variable["name"].endswith("_FILE"):
                    folder, _, file = variable["value"].rpartition("/")
                    secret = mounts[folder]["secret"]
                    items = {item["path"] for item in secret.get("items", ())} or {"tls.crt", "tls.key", "ca.crt"}
                    assert file in items, (name, variable["name"])


def test_the_certificates_are_those_that_are_mounted_and_name_their_service() -> None:
    production = list(yaml.safe_load_all(manifests.render("production")))
    made = {one["spec"]["secretName"]: one["spec"] for one in _of_kind(production, "Certificate")}
    for name in SERVED:
        pod = _named(production, "Deployment", name)["spec"]["template"]["spec"]
        (secret,) = [volume["secret"]["secretName"] for volume in pod["volumes"] if volume["name"] == "tls"]
        assert {name, f"{name}.mdw.svc", "localhost"} <= set(made[secret]["dnsNames"])
        assert made[secret]["usages"] == ["server auth", "client auth"]


def test_with_mutual_tls_the_services_ask_for_certificates() -> None:
    rendered = manifests.parsed(manifests.render_with("mutual-tls"))
    for name in SERVED:
        (container,) = _named(rendered, "Deployment", name)["spec"]["template"]["spec"]["containers"]
        variables = {one["name"]: one.get("value") for one in container["env"]}
        assert variables["TLS_CLIENT_CA_FILE"] == "/run/tls/ca.crt"
        if name != "auth":
            assert variables["MDW_TLS_CERT_FILE"] == "/run/tls/tls.crt", "auth asks it for one"


def test_a_commit_waits_for_a_standby_and_without_one_writing_stops() -> None:
    (cluster,) = _of_kind(list(yaml.safe_load_all(manifests.render("production"))), "Cluster")

    assert cluster["spec"]["instances"] == 3
    synchronous = cluster["spec"]["postgresql"]["synchronous"]
    assert synchronous == {"method": "any", "number": 1, "dataDurability": "required", "failoverQuorum": True}
    assert "synchronous_commit" not in cluster["spec"]["postgresql"]["parameters"]
    logins = {role["name"]: role["inRoles"] for role in cluster["spec"]["managed"]["roles"] if role["login"]}
    assert logins == {f"mdw_{name}_login": [f"mdw_{name}"] for name in SERVED}


def test_autoscalers_alone_say_how_many_pods_there_are_in_production() -> None:
    production = manifests.parsed(manifests.render("production"))
    least = {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"]["minReplicas"]
        for one in _of_kind(production, "HorizontalPodAutoscaler")
    }
    assert least == {"auth": 3, "symbols": 3, "ingest": 3, "worker": 2}
    assert not [one for one in _of_kind(production, "Deployment") if "replicas" in one["spec"]]


def test_backups_are_taken_of_a_standby_that_is_stopped() -> None:
    rendered = manifests.parsed(manifests.render_with("backups"))
    (scheduled,), (cluster,) = _of_kind(rendered, "ScheduledBackup"), _of_kind(rendered, "Cluster")
    assert scheduled["spec"]["cluster"]["name"] == cluster["metadata"]["name"]
    assert len(scheduled["spec"]["schedule"].split()) == 6, "seconds first"
    assert scheduled["spec"]["method"] == "volumeSnapshot"
    assert cluster["spec"]["backup"]["volumeSnapshot"]["online"] is False
    assert cluster["spec"]["backup"]["target"] == "prefer-standby"


def test_monitoring_scrapes_all_and_brings_alerts_and_dashboards() -> None:
    production = list(yaml.safe_load_all(manifests.render("production")))
    (monitor,) = _of_kind(production, "PodMonitor")
    (expression,) = monitor["spec"]["selector"]["matchExpressions"]
    assert tuple(expression["values"]) == PROCESSES
    for name in PROCESSES:
        (container,) = _named(production, "Deployment", name)["spec"]["template"]["spec"]["containers"]
        assert monitor["spec"]["podMetricsEndpoints"][0]["port"] in {port["name"] for port in container["ports"]}
    assert _of_kind(production, "PrometheusRule")
    boards = _named(production, "ConfigMap", "mdw-dashboards")
    assert boards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert set(boards["data"]) == {"mdw-calls.json", "mdw-ingest.json"}


def test_compose_waits_for_health_and_for_completion() -> None:
    services = yaml.safe_load((manifests.ROOT / "deploy" / "compose.yaml").read_text())["services"]

    assert services["migrator"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["bootstrap"]["depends_on"] == {"migrator": {"condition": "service_completed_successfully"}}
    for name in PROCESSES:
        assert services[name]["depends_on"] == {"bootstrap": {"condition": "service_completed_successfully"}}
    assert services["replay"]["profiles"] == ["replay"]
    for name in (*PROCESSES, "migrator", "bootstrap", "replay"):
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in services[name].get("ports", ()))


def test_compose_gives_every_process_only_settings_that_it_reads() -> None:
    services = yaml.safe_load((manifests.ROOT / "deploy" / "compose.yaml").read_text())["services"]
    shared = set(yaml.safe_load((manifests.ROOT / "deploy" / "compose.yaml").read_text())["x-environment"])
    for name, module in MODULES.items():
        assert set(services[name]["environment"]) - shared <= _settings_of(module), name
    assert shared <= set().union(*(_settings_of(module) for module in MODULES.values()))
