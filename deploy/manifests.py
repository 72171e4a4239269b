"""Renders and checks the Kubernetes manifests, and names the migration Job by the digest of the migration files."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
K8S = ROOT / "deploy" / "k8s"
JOB = K8S / "base" / "migrate.yaml"
OVERLAYS = ("dev", "production")
JOB_NAME = re.compile(r"^(  name: mdw-migrate-)[0-9a-f]{10}$", re.MULTILINE)
TOOLS = Path(sys.executable).parent
ALERTS = K8S / "components" / "monitoring" / "prometheusrule.yaml"
RULES = ROOT / "deploy" / "grafana" / "rules.yaml"


def digest(folder: Path = ROOT / "migrator" / "sql") -> str:
    """Returns ten hex digits that change with any migration file."""
    total = hashlib.sha256()
    for file in sorted(folder.glob("*.sql")):
        total.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return total.hexdigest()[:10]


def name_job() -> None:
    """Writes the present digest into the name of the migration Job."""
    JOB.write_text(JOB_NAME.sub(rf"\g<1>{digest()}", JOB.read_text()))


def rules() -> str:
    """Returns the alert rules as a Prometheus without the operator reads them."""
    groups = yaml.safe_load(ALERTS.read_text())["spec"]["groups"]
    return f"# Made by `make manifests` from {ALERTS.relative_to(ROOT)}.\n" + yaml.safe_dump(
        {"groups": groups}, sort_keys=False, width=1_000
    )


def render(overlay: str) -> str:
    """Returns an overlay's manifests as kubectl would apply them; raises CalledProcessError."""
    return render_folder(K8S / "overlays" / overlay)


def render_folder(folder: Path) -> str:
    """Returns what the kustomization in a folder gives; raises CalledProcessError."""
    command: list[str | Path] = [TOOLS / "kubectl", "kustomize", folder]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def validate(file: Path) -> None:
    """Checks a rendered file against the Kubernetes schemas, unknown fields included; raises CalledProcessError."""
    subprocess.run([TOOLS / "kubernetes-validate", "--strict", "--quiet", file], check=True)


def main() -> None:
    folder = ROOT / ".mdw" / "manifests"
    folder.mkdir(parents=True, exist_ok=True)
    name_job()
    RULES.write_text(rules())
    for overlay in OVERLAYS:
        file = folder / f"{overlay}.yaml"
        file.write_text(render(overlay))
        validate(file)
        print(f"{overlay}: {file.relative_to(ROOT)}")
    subprocess.run([TOOLS / "hadolint", ROOT / "deploy" / "Dockerfile"], check=True)


if __name__ == "__main__":
    main()
