"""`make dist`: the wheel's content, its floors, the descriptor set and the protos; `make dist-check` installs it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from mdw_client.packaging import build, probe
from tests.mdw_client.warehouse import SERVICES


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    build.stage(tmp_path / "wheel")
    return tmp_path / "wheel"


def test_the_wheel_holds_the_client_and_the_generated_code_alone(staged: Path) -> None:
    assert sorted(path.name for path in staged.iterdir()) == ["README.md", "mdw", "mdw_client", "pyproject.toml"]
    assert not (staged / "mdw_client/packaging").exists()
    assert (staged / "mdw_client/py.typed").exists()
    assert (staged / "mdw/py.typed").exists()
    imports = {
        line
        for path in staged.rglob("*.py")
        for line in re.findall(r"^(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert not imports & {"services", "migrator", "deploy", "tests"}


def test_the_floors_are_those_of_the_generated_code(staged: Path) -> None:
    project = tomllib.loads((staged / "pyproject.toml").read_text())["project"]
    stub = (staged / "mdw/auth/v1/auth_pb2_grpc.py").read_text()
    message = (staged / "mdw/auth/v1/auth_pb2.py").read_text()
    grpcio = re.search(r"GRPC_GENERATED_VERSION = '([\d.]+)'", stub)
    protobuf = re.search(r"# Protobuf Python Version: ([\d.]+)", message)
    assert f"grpcio>={grpcio[1]}" in project["dependencies"]
    assert f"protobuf>={protobuf[1]},<8" in project["dependencies"]
    assert project["scripts"] == {"mdw": "mdw_client.cli:main"}


def test_the_descriptor_set_holds_every_service(tmp_path: Path) -> None:
    found = FileDescriptorSet.FromString(build.descriptors(tmp_path).read_bytes())
    names = {f"{file.package}.{service.name}" for file in found.file for service in file.service}
    assert names == {service.full_name for service in SERVICES}


def test_the_protos_build_where_they_were_copied_to(tmp_path: Path) -> None:
    folder = build.sources(build.sources(tmp_path).parent)
    assert "protoc-gen-go-grpc" in (folder / "buf.gen.yaml").read_text()
    buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or "buf"
    subprocess.run([buf, "build", "-o", str(tmp_path / "image.binpb")], cwd=folder, check=True, timeout=60)
    assert (tmp_path / "image.binpb").stat().st_size > 10_000


def test_the_probe_of_the_installed_wheel_reads_bars(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="the wheel brought services"):
        probe.main()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    probe.main()
    assert "1000 bars; NOT_FOUND: no symbol GONE" in capsys.readouterr().out
