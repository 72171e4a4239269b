"""Builds the programs of other ecosystems: from what `make dist` gives, with each one's own generator."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

from mdw_client.packaging import build

HERE = Path(__file__).parent
IMPORT_PATH = "example.com/yours"
"""The Go module in which the generated code lies, as buf.gen.yaml says."""
DEBIAN = Path("/usr/share/gocode")
"""Where Debian keeps Go's libraries; where grpc-go is not there, go.mod says what to fetch."""
DEBIAN_NAMES = {
    "grpc.NewClient(": "grpc.Dial(",
    "grpc.WithTransportCredentials(insecure.NewCredentials())": "grpc.WithInsecure()",
    '\t"google.golang.org/grpc/credentials/insecure"\n': "",
}
"""How grpc-go 1.33, which Debian 12 has, spells what later ones have better names for."""
GO_PLUGINS = {
    "protoc-gen-go": "google.golang.org/protobuf/cmd/protoc-gen-go@v1.35.2",
    "protoc-gen-go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1",
}
PROTO_LOADER = ("--longs=String", "--enums=String", "--defaults")
GRPC_JS = ("-I", ".", "--grpcLib=@grpc/grpc-js", "--importFileExtension=.js", "--outDir=gen")
PROTOS = (
    "mdw/ingest/v1/bars.proto",
    "mdw/symbols/v1/symbols.proto",
    "google/rpc/status.proto",
    "google/rpc/error_details.proto",
)


async def run(*command: str | Path, cwd: Path | None = None, code: int = 0, **variables: str) -> str:
    """Runs a command, which has to end with `code`; returns what it printed, or where it had to fail what it said."""
    words = [str(word) for word in command]
    path = os.pathsep.join([str(Path(sys.executable).parent), variables.pop("PATH", ""), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=cwd,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == code, (words, process.returncode, out.decode(), err.decode())
    return (err if code else out).decode()


async def module(folder: Path) -> Path:
    """Generates Go and TypeScript as `buf generate` does for whoever has the protos of dist/."""
    made = folder / "src" / IMPORT_PATH
    shutil.copytree(build.sources(folder), made)
    for name in ("package.json", "tsconfig.json"):
        shutil.copy(HERE / "typescript-connect" / name, made)
    await npm_install(made)
    for name, package in GO_PLUGINS.items():
        if shutil.which(name) is None:
            await run("go", "install", package, GOBIN=str(folder / "bin"))
    await run("buf", "generate", cwd=made, PATH=str(folder / "bin"))
    return made


async def connect(module: Path, program: str, addresses: dict[str, str] | None = None) -> Path:
    """Compiles a program for connect-node; returns what node runs."""
    copy(HERE / "typescript-connect" / f"{program}.ts", module / f"{program}.ts", addresses or {})
    await run("npx", "tsc", cwd=module)
    return module / "out" / f"{program}.js"


async def go(module: Path, program: str, addresses: dict[str, str] | None = None) -> Path:
    """Compiles a program for grpc-go; returns it."""
    (module / program).mkdir(exist_ok=True)
    if (DEBIAN / "src/google.golang.org/grpc").is_dir():
        environment = {"GO111MODULE": "off", "GOPATH": f"{module.parents[2]}:{DEBIAN}"}
        words = DEBIAN_NAMES | (addresses or {})
    else:
        environment, words = {"GO111MODULE": "on", "GOFLAGS": "-mod=mod"}, addresses or {}
        shutil.copy(HERE / "go" / "go.mod", module)
    copy(HERE / "go" / program / "main.go", module / program / "main.go", words)
    made = module / "programs" / program
    await run("go", "build", "-o", made, f"{IMPORT_PATH}/{program}", cwd=module, **environment)
    return made


async def grpc_js(folder: Path) -> Path:
    """Generates with the generator of grpc-js and compiles; returns the folder in which out/check.js runs."""
    made = build.sources(folder)
    shutil.copytree(HERE / "typescript-grpc-js", made, dirs_exist_ok=True)
    await npm_install(made)
    await run("npx", "proto-loader-gen-types", *PROTO_LOADER, *GRPC_JS, *PROTOS, cwd=made)
    await run("npx", "tsc", cwd=made)
    return made


async def npm_install(folder: Path) -> None:
    await run("npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)


def copy(source: Path, target: Path, words: dict[str, str]) -> None:
    """Copies a source with other words for some of its own."""
    text = source.read_text()
    for old, new in words.items():
        text = text.replace(old, new)
    target.write_text(text)
