"""The image: what goes in, what stays out, and that every command of the manifests is there."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from deploy import manifests
from migrator.errors import Exit
from services.kit.keys import new_secret

ROOT = manifests.ROOT
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
PYTHON = "/opt/mdw/bin/python"
NOWHERE = "127.0.0.1:0"


def commands() -> list[list[str]]:
    """Returns each command that a manifest or compose starts in our image."""
    found = []
    for overlay in manifests.OVERLAYS:
        for one in yaml.safe_load_all(manifests.render(overlay)):
            pod: dict[str, Any] = one.get("spec", {}).get("template", {}).get("spec", {})
            found += [each["command"] for each in pod.get("containers", ()) if "mdw" in each["image"]]
    found += [each["command"] for each in COMPOSE["services"].values() if each["image"].startswith("mdw")]
    unique = {" ".join(command): command for command in found}
    return list(unique.values())


def test_the_dockerfile_passes_hadolint() -> None:
    subprocess.run([manifests.TOOLS / "hadolint", ROOT / "deploy" / "Dockerfile"], check=True)


def test_every_command_is_a_module_that_the_image_has() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    started = commands()
    assert len(started) == 7, "migrator, bootstrap, auth, symbols, ingest, worker, replay"
    for command in started:
        assert command[:2] == [PYTHON, "-m"]
        module = command[2]
        assert find_spec(module), module
        assert module.partition(".")[0] in packages["packages"]


async def test_a_command_without_its_settings_says_so_in_a_line() -> None:
    """A trace would mean that something of it is missing; the replay and the migrator have defaults."""
    for code, words in await asyncio.gather(*(_start(command) for command in commands())):
        assert "Traceback" not in words
        assert code == 0 or (code, words) == (2, "DATABASE_URL: is not set\n")


async def test_every_command_has_a_handler_for_the_signal_that_ends_it() -> None:
    """The first process of a container gets no signal that it has no handler for."""
    codes = await asyncio.gather(*(_told_to_end(command) for command in commands()))
    assert sorted(codes) == [0] * 5 + [Exit.TRY_AGAIN] * 2, "the migrator was not done"


async def _told_to_end(command: list[str]) -> int:
    options = ["--port", "0"] if command[2] == "deploy.local.replay" else command[3:]
    settings = {"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/mdw", "SERVICE_KEY": "none", "LISTEN_ADDRESS": NOWHERE}
    process = await _process(command[2], *options, **settings, POLYGON_API_KEY="none", MDW_ADMIN_KEY=new_secret())
    async with asyncio.timeout(120):
        while not _handles(process.pid, signal.SIGTERM):
            assert process.returncode is None, command
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert process.returncode is not None
    return process.returncode


def _handles(pid: int, number: int) -> bool:
    """Says whether a process has a handler of its own for a signal."""
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (number - 1) & 1)


async def _start(command: list[str]) -> tuple[int | None, str]:
    options = ["--help"] if command[2] in ("deploy.local.replay", "migrator") else command[3:]
    process = await _process(command[2], *options)
    _, words = await process.communicate()
    return process.returncode, words.decode()


async def _process(module: str, *options: str, **settings: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *options,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{ROOT / 'protos' / 'gen'}", **settings},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


def test_the_image_runs_as_nobody_and_holds_no_build_tools() -> None:
    build, final = re.split(r"^FROM \$\{BASE_IMAGE\}$", DOCKERFILE, flags=re.MULTILINE)
    assert "USER 10001:10001" in final
    (removes,) = [line for line in final.splitlines() if line.startswith("RUN ")]
    assert removes.startswith("RUN for lib in /usr/lib/python3* /usr/local/lib/python3*;")
    assert "install" not in final
    assert [line for line in final.splitlines() if line.startswith("COPY")] == ["COPY --from=build /opt/mdw /opt/mdw"]
    assert "--require-hashes" in build
    assert "--without-pip" in build
    assert "ENTRYPOINT" not in DOCKERFILE, "the command is the process itself, so that it gets the signals"


def test_all_that_is_copied_reaches_the_builder() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in DOCKERFILE.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in shlex.split(line)[1:-1]:
                assert any(name == source or name.startswith(f"{source}/") for name in let_in), source


def test_the_lock_holds_every_library_with_hashes() -> None:
    locked = _locked((ROOT / "deploy" / "requirements.lock").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["otel"], *extras["parquet"]]
    assert {_name(each) for each in wanted} <= locked.keys()
    assert all(hashes for hashes in locked.values())
    assert not locked.keys() & {"pytest", "mypy", "ruff", "grpcio-tools", "pip"}


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert found
    return found[0].lower().replace("_", "-")


def _locked(text: str) -> dict[str, int]:
    """Returns the libraries with the number of their hashes."""
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)
    return {_name(block): block.count("--hash=sha256:") for block in blocks if "==" in block}
