"""The programs of other ecosystems: the guide shows them as they are, and each says exactly what it builds on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.clients.building import GO_PLUGINS

HERE = Path(__file__).parent
GUIDE = (HERE.parents[1] / "docs/bars.md").read_text()
SOURCES = {"python": "python/bars.py", "go": "go/bars/main.go", "ts": "typescript-connect/bars.ts"}


@pytest.mark.parametrize(("language", "source"), SOURCES.items())
def test_the_guide_shows_the_program_that_is_run(language: str, source: str) -> None:
    shown = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    assert len(shown) == 1
    assert shown[0] in (HERE / source).read_text()
    assert len(shown[0].splitlines()) <= 24


@pytest.mark.parametrize("package", [path.parent.name for path in HERE.glob("*/package.json")])
def test_each_package_is_named_by_its_exact_version(package: str) -> None:
    found = json.loads((HERE / package / "package.json").read_text())
    for version in (found["dependencies"] | found["devDependencies"]).values():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), version
    assert not list(HERE.glob("*/package-lock.json"))


def test_the_generator_for_go_is_as_old_as_its_runtime() -> None:
    runtime = re.search(r"google\.golang\.org/protobuf (v[\d.]+)", (HERE / "go/go.mod").read_text())
    assert GO_PLUGINS["protoc-gen-go"].endswith(f"@{runtime[1]}")
