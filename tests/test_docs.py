"""The guides: every link leads somewhere, each guide to its neighbours, and what they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mdw.auth.v1 import auth_pb2
from mdw.ingest.v1 import bars_pb2, ingest_pb2
from mdw.symbols.v1 import symbols_pb2

ROOT = Path(__file__).parents[1]
HUB = ROOT / "docs" / "README.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDES = re.findall(r"^\| \[.*?\]\((.*?\.md)\)", HUB.read_text(), re.MULTILINE)
FILES = (auth_pb2, symbols_pb2, ingest_pb2, bars_pb2)
RPCS = {
    f"{service.full_name}/{method.name}"
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def prose(page: Path) -> str:
    """Returns a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Returns what the headings of a page can be reached by."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_guide_is_in_the_hub() -> None:
    assert sorted(GUIDES) == sorted(page.name for page in (ROOT / "docs").glob("*.md") if page != HUB)


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_ends_with_the_way_to_its_neighbours(guide) -> None:
    place = GUIDES.index(guide)
    wanted = ["README.md", *GUIDES[max(0, place - 1) : place], *GUIDES[place + 1 : place + 2]]
    last = (ROOT / "docs" / guide).read_text().rstrip().splitlines()[-1]
    assert re.findall(r"\]\(([^)]+)\)", last) == wanted


def test_the_front_page_leads_to_the_hub_and_has_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "docs/README.md" in links(ROOT / "README.md")
    assert "```sh\nmake run\nmake test\n```" in text


def test_every_promise_of_status_has_its_rpc_and_its_test() -> None:
    rows = [line for line in (ROOT / "docs" / "status.md").read_text().splitlines() if "::test_" in line]
    assert len(rows) >= 18
    for row in rows:
        for rpc in re.findall(r"`(mdw\.[\w.]+/\w+)`", row):
            assert rpc in RPCS, rpc
        for path, name in re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row):
            assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), name


def test_make_targets_that_pages_name_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for name in re.findall(r"`make ([a-z-]+)`", page.read_text()):
            assert name in targets, (page.name, name)
