"""The guide to operations is pasted into a shell, where kubectl is real and its cluster is away.

So each line of kubectl is parsed, each manifest that it makes without a cluster is made, and each overlay that it
applies is rendered; what needs a cluster is told that there is none, and goes on.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from deploy import manifests
from services.kit.keys import is_well_formed

if TYPE_CHECKING:
    from pathlib import Path

GUIDE = (manifests.ROOT / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"^ *```sh\n(.*?)^ *```", GUIDE, re.DOTALL | re.MULTILINE)
(SECRETS,) = [block for block in BLOCKS if "new-key" in block]
# What a cluster would do is not done: `create` prints what it would make, all others find no server.
KUBECTL = """#!{python}
import subprocess, sys
arguments = sys.argv[1:]
command = ["{kubectl}", "--kubeconfig={config}", *arguments]
if "create" in arguments:
    command += ["--dry-run=client", "--output=yaml"]
done = subprocess.run(command, capture_output=True)
with open("{made}", "ab") as made:
    made.write(done.stdout + b"---\\n" if "create" in arguments else b"")
if "--dry-run=client" in arguments:
    sys.stdout.buffer.write(done.stdout)
away = b"connection refused" in done.stderr or b"connection to the server" in done.stderr
if done.returncode and not away:
    sys.stderr.buffer.write(done.stderr)
sys.exit(0 if away else done.returncode)
"""
CONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "away", "cluster": {"server": "http://127.0.0.1:1"}}],
    "contexts": [{"name": "away", "context": {"cluster": "away", "user": ""}}],
    "current-context": "away",
}


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the deployment's files, and the programs that the guide calls."""
    shutil.copytree(
        manifests.ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("local", "__pycache__")
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    kubectl = KUBECTL.format(
        python=sys.executable,
        kubectl=manifests.TOOLS / "kubectl",
        config=tmp_path / "config.yaml",
        made=tmp_path / "made.yaml",
    )
    new_key = f'case "$3" in new-key) exec {sys.executable} "$@";; esac'
    programs = {
        "kubectl": kubectl,
        "python": f"#!/bin/sh\n{new_key}\n",
        "openssl": f"#!/bin/sh\nexec {sys.executable} -c 'import secrets; print(secrets.token_hex(24))'\n",
        "mdw": '#!/bin/sh\n[ "$1" != keys ] || echo the-new-key > new.key\n',
    } | dict.fromkeys(("make", "docker", "kind"), "#!/bin/sh\n")
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def paste(block: str, desk: Path) -> None:
    environment = {
        "PATH": f"{desk / 'bin'}:/usr/bin:/bin",
        "PYTHONPATH": f"{manifests.ROOT}:{manifests.ROOT / 'protos' / 'gen'}",
        "HOME": os.fspath(desk),
    }
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", f"{block}\nwait\n"],
        cwd=desk,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("block", [block for block in BLOCKS if block != SECRETS], ids=lambda block: block[:40])
def test_what_the_guide_says_can_be_pasted(block, desk) -> None:
    paste(block, desk)


@pytest.mark.parametrize("line", ["kubectl apply -k deploy/nowhere", "kubectl wait jobs --fore=x", "kubectl restart x"])
def test_a_line_that_kubectl_does_not_take_is_noticed(line, desk) -> None:
    with pytest.raises(AssertionError):
        paste(line, desk)


def test_the_secrets_that_it_makes_are_those_that_the_manifests_want(desk) -> None:
    paste(SECRETS, desk)
    made = {
        one["metadata"]["name"]: one["data"]
        for one in yaml.safe_load_all((desk / "made.yaml").read_text())
        if one and one["kind"] == "Secret"
    }
    assert wanted() <= {(name, key) for name, data in made.items() for key in data}
    for key in ("admin-key", "symbols-service-key", "ingest-service-key"):
        assert is_well_formed(_decoded(made["mdw-keys"][key]).strip())
        assert not (desk / key).exists()
    assert _decoded(made["mdw-database-auth"]["username"]) == "mdw_auth_login"
    assert re.fullmatch(r"[a-z0-9]{40,}", _decoded(made["mdw-database-auth"]["password"]))


def wanted() -> set[tuple[str, str]]:
    """Returns each key of a Secret that a container of production refers to."""
    found = set()
    for one in manifests.parsed(manifests.render("production")):
        pod: dict[str, Any] = one["spec"]["template"]["spec"] if one["kind"] in ("Deployment", "Job") else {}
        for container in pod.get("containers", ()):
            references = (each.get("valueFrom", {}).get("secretKeyRef") for each in container["env"])
            found |= {(each["name"], each["key"]) for each in references if each}
    return found


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()


def test_what_it_selects_by_label_is_there() -> None:
    rendered = manifests.parsed(manifests.render("production"))
    labels = [one["metadata"].get("labels", {}) for one in rendered]
    labels += [one["spec"]["template"]["metadata"]["labels"] for one in rendered if "template" in one.get("spec", {})]
    jobs = [one["metadata"]["labels"] for one in rendered if one["kind"] == "Job"]
    selected = re.findall(r"-l\s+(app\.[\w./-]+)=(\w+)", GUIDE)
    assert selected
    for key, value in selected:
        assert any(each.get(key) == value for each in labels), (key, value)
    for key, value in re.findall(r"\bjob -l\s+([\w./-]+)=(\w+)", GUIDE):
        assert all(each.get(key) == value for each in jobs), "the label of the Job itself, not of its pods"
