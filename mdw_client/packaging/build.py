"""`make dist`: dist/ with the wheel mdw-client, mdw.binpb (a descriptor set), and protos/ with a buf.gen.yaml."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.rpc import status_pb2

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PROTOS = ROOT / "protos"
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "packaging", "*.pyc")
_DETAILS = [Path(status_pb2.__file__).with_name(name) for name in ("status.proto", "error_details.proto")]
"""What an error's details are made of, with which every language reads its reason."""
_BUF_YAML = "version: v2\nmodules:\n  - path: .\n"


def stage(folder: Path) -> None:
    """Lays out the wheel's project: mdw_client and mdw, and nothing else of ours."""
    shutil.copytree(ROOT / "mdw_client", folder / "mdw_client", ignore=_LEFT_OUT)
    shutil.copytree(PROTOS / "gen" / "mdw", folder / "mdw", ignore=_LEFT_OUT)
    (folder / "mdw" / "py.typed").touch()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(HERE / name, folder / name)


def wheel(target: Path) -> Path:
    """Builds the wheel into a folder and returns it."""
    for old in target.glob("mdw_client-*.whl"):
        old.unlink()
    with tempfile.TemporaryDirectory() as temporary:
        stage(Path(temporary))
        _run("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(target), temporary)
    return next(target.glob("mdw_client-*.whl"))


def descriptors(target: Path) -> Path:
    """Writes the descriptor set, comments included: what grpcurl -protoset and buf curl --schema read."""
    made = target / "mdw.binpb"
    with tempfile.TemporaryDirectory() as temporary:
        folder = sources(Path(temporary))
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.proto"))
        options = ("--include_imports", "--include_source_info", f"--descriptor_set_out={made}")
        _run("-m", "grpc_tools.protoc", f"-I{folder}", *options, *files)
    return made


def sources(target: Path) -> Path:
    """Copies the protos, with what buf needs to generate from them."""
    folder = target / "protos"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PROTOS / "mdw", folder / "mdw")
    (folder / "google" / "rpc").mkdir(parents=True)
    for proto in _DETAILS:
        shutil.copy(proto, folder / "google" / "rpc")
    (folder / "buf.yaml").write_text(_BUF_YAML)
    shutil.copy(HERE / "buf.gen.yaml", folder / "buf.gen.yaml")
    return folder


def main() -> None:
    target = ROOT / "dist"
    target.mkdir(exist_ok=True)
    for made in (wheel(target), descriptors(target), sources(target)):
        sys.stdout.write(f"{made.relative_to(ROOT)}\n")


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True)  # noqa: S603 # our own arguments


if __name__ == "__main__":
    main()
