"""Renders and checks the Kubernetes manifests, and names the migration Job by the digest of the migration files."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from deploy.restricted import problems

ROOT = Path(__file__).resolve().parent.parent
K8S = ROOT / "deploy" / "k8s"
JOB = K8S / "base" / "migrate.yaml"
OVERLAYS = ("dev", "production")
OPTIONAL = ("backups", "mutual-tls")
"""Components that an overlay of yours may add to production."""
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


def render_with(*components: str) -> str:
    """Returns production with more components, as an overlay of yours would add them."""
    overlay = {"resources": ["../overlays/production"], "components": [f"../components/{name}" for name in components]}
    with tempfile.TemporaryDirectory(dir=K8S) as folder:
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        return render_folder(Path(folder))


def render_folder(folder: Path) -> str:
    """Returns what the kustomization in a folder gives; raises CalledProcessError."""
    command: list[str | Path] = [TOOLS / "kubectl", "kustomize", folder]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def validate(rendered: str, folder: Path) -> set[str]:
    """Checks manifests against the Kubernetes schemas, unknown fields included; raises CalledProcessError.

    Returns the kinds that operators bring and that therefore have no schema here.
    """
    known = [one for one in parsed(rendered) if not _is_custom(one)]
    file = folder / "validated.yaml"
    file.write_text(yaml.safe_dump_all(known))
    subprocess.run([TOOLS / "kubernetes-validate", "--strict", "--quiet", file], check=True)
    return {one["kind"] for one in parsed(rendered) if _is_custom(one)}


def _is_custom(manifest: dict[str, Any]) -> bool:
    group = manifest["apiVersion"].rpartition("/")[0]
    return "." in group and not group.endswith("k8s.io")


def parsed(rendered: str) -> list[dict[str, Any]]:
    """Returns the manifests of a rendered overlay."""
    return list(yaml.safe_load_all(rendered))


def check(name: str, rendered: str, folder: Path) -> list[str]:
    """Writes a rendered overlay, checks it against the schemas, and returns what the restricted profile refuses."""
    file = folder / f"{name}.yaml"
    file.write_text(rendered)
    custom = ", ".join(sorted(validate(rendered, folder)))
    print(f"{name}: {file.relative_to(ROOT)}" + (f" (no schema here: {custom})" if custom else ""))
    return problems(parsed(rendered))


def main() -> int:
    """Writes what is generated, and checks every overlay; returns 1 if the restricted profile would refuse one."""
    folder = ROOT / ".mdw" / "manifests"
    folder.mkdir(parents=True, exist_ok=True)
    name_job()
    RULES.write_text(rules())
    rendered = {name: render(name) for name in OVERLAYS} | {"production-with-all": render_with(*OPTIONAL)}
    refused = [problem for name, text in rendered.items() for problem in check(name, text, folder)]
    subprocess.run([TOOLS / "hadolint", ROOT / "deploy" / "Dockerfile"], check=True)
    for problem in refused:
        print(problem, file=sys.stderr)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
