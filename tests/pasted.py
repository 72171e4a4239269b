"""Runs the command lines of a guide as a reader would: pasted into a shell, one after the other.

Lines call grpcurl. Where it is not installed, a script of that name hands them to `buf curl`, which speaks the same
JSON to the same server over the same reflection. The addresses of the guides become those of the servers under test.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REFUSED = "# refused: "
SCRIPT = """#!{python}
import os, sys
given, passed, rest = sys.argv[1:], [], []
while given:
    word = given.pop(0)
    if word in ("-H", "-d"):
        passed += [word, given.pop(0)]
    elif word == "-emit-defaults":
        passed.append("--emit-defaults")
    elif word != "-plaintext":
        rest.append(word)
address, method = rest
command = ["{buf}", "curl", "--protocol", "grpc", "--http2-prior-knowledge", *passed, f"http://{{address}}/{{method}}"]
os.execv(command[0], command)
"""


@dataclass(frozen=True)
class Line:
    """A command line, the reason for which it must be refused, and what its answer holds at least."""

    command: str
    refused: str = ""
    answer: Any = None


def lines(guide: Path) -> Iterator[Line]:
    """Yields the lines of a guide's `sh` blocks; a `json` block is the answer of the line above."""
    blocks = guide.read_text().split("```")[1::2]
    for block, following in zip(blocks, [*blocks[1:], ""], strict=True):
        language, _, text = block.partition("\n")
        if language != "sh":
            continue
        *others, last = [line for line in text.splitlines() if line.strip()]
        yield from map(_line, others)
        kind, _, shown = following.partition("\n")
        yield Line(
            last.partition(REFUSED)[0], last.partition(REFUSED)[2], json.loads(shown) if kind == "json" else None
        )


def _line(text: str) -> Line:
    command, _, refused = text.partition(REFUSED)
    return Line(command, refused)


async def paste(guide: Path, folder: Path, addresses: Mapping[str, str]) -> int:
    """Runs all lines in a folder that holds `.mdw/admin.key`; asserts what they answer. Returns how many called."""
    environment = {**os.environ, "PATH": f"{_grpcurl(folder)}{os.pathsep}{os.environ['PATH']}"}
    settings, calls = "", 0
    for line in lines(guide):
        command = line.command
        for documented, real in addresses.items():
            command = command.replace(documented, real)
        if not command.startswith("grpcurl "):
            settings += await _once(settings + command, command.partition("=")[0], (folder, environment))
            continue
        calls += 1
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", settings + command, cwd=folder, env=environment, stdout=-1, stderr=-1
        )
        out, err = await process.communicate()
        _check(line, process.returncode, out.decode(), err.decode())
    return calls


async def _once(script: str, name: str, where: tuple[Path, dict[str, str]]) -> str:
    """Runs an assignment, which may call the server, and returns one of what came of it."""
    folder, environment = where
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", f'{script}\nprintf %s "${name}"', cwd=folder, env=environment, stdout=-1
    )
    out, _ = await process.communicate()
    assert out, script
    return f"{name}={shlex.quote(out.decode())}\n"


def _check(line: Line, code: int | None, out: str, err: str) -> None:
    if line.refused:
        assert code, line.command
        assert line.refused in _readable(err), (line.command, out, err)
    else:
        assert code == 0, (line.command, out, err)
    if line.answer is not None:
        assert _holds(json.loads(out), line.answer), (line.command, out)


def _readable(err: str) -> str:
    """Returns what was printed, with the status details that buf leaves in base64."""
    packed = re.findall(r'"value": "([A-Za-z0-9+/]+)"', err)
    return err + "".join(base64.b64decode(value + "==").decode(errors="replace") for value in packed)


def _holds(found: Any, shown: Any) -> bool:
    """Says whether an answer holds all that the guide shows of it."""
    if isinstance(shown, dict):
        return isinstance(found, dict) and all(name in found and _holds(found[name], shown[name]) for name in shown)
    if isinstance(shown, list):
        return len(found) == len(shown) and all(map(_holds, found, shown))
    return bool(found == shown)


def _grpcurl(folder: Path) -> Path:
    """Returns the folder in which grpcurl is found."""
    installed = shutil.which("grpcurl")
    if installed:
        return Path(installed).parent
    script = folder / "bin" / "grpcurl"
    script.parent.mkdir()
    script.write_text(SCRIPT.format(python=sys.executable, buf=Path(sys.executable).with_name("buf")))
    script.chmod(0o755)
    return script.parent
