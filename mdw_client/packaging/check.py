"""`make dist-check`: installs the wheel in empty environments, on protobuf 6.33 and 7, and reads bars with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from mdw_client.packaging.build import ROOT, wheel

PROTOBUFS = ("protobuf>=6.33.5,<6.34", "protobuf>=7,<8")
PROBE, SAMPLE = (Path(__file__).parent / name for name in ("probe.py", "sample.py"))


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        built = wheel(folder)
        sample = shutil.copy(SAMPLE, folder)
        for number, protobuf in enumerate(PROTOBUFS):
            python = _environment(folder / f"venv{number}", built, protobuf)
            _run(python, "-I", "-W", "error", str(PROBE), cwd=folder)
            _run(python.with_name("mdw"), "--version", cwd=folder)
            _run(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, sample, cwd=folder)
    sys.stdout.write(f"{built.name} works on {' and '.join(PROTOBUFS)}\n")


def _environment(folder: Path, built: Path, protobuf: str) -> Path:
    """Makes an environment outside the repository with the wheel alone; returns its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    _run(python, "-m", "pip", "install", "--quiet", f"{built}[pandas,cli]", protobuf, cwd=ROOT)
    return python


def _run(*arguments: Path | str, cwd: Path) -> None:
    subprocess.run([str(argument) for argument in arguments], check=True, cwd=cwd)  # noqa: S603 # our own arguments


if __name__ == "__main__":
    main()
