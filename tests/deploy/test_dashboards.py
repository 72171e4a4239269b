"""Dashboards and alerts ask only for what the services really export, and each alert says what to do."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from deploy import manifests
from tests.deploy import promql
from tests.deploy.exported import everything

GRAFANA = manifests.ROOT / "deploy" / "grafana"
GUIDE = manifests.ROOT / "docs" / "operations.md"
TARGET_LABELS = {"service", "pod", "le"}
"""What scraping adds (podmonitor.yaml, prometheus.yaml), and histograms."""


@pytest.fixture(scope="module")
async def exported(database, _cleaner):
    await _cleaner.clean()
    return await everything(database)


def dashboards() -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(manifests.ALERTS.read_text())["spec"]["groups"] for rule in group["rules"]]


def queries() -> dict[str, str]:
    """Returns every expression by where it stands."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in alerts()}
    for name, board in dashboards().items():
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                found[f"{name}: {panel['title']} {target['refId']}"] = target["expr"]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                inside = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
                assert inside
                found[f"{name}: variable {variable['name']}"] = f"sum by ({inside[2]}) ({inside[1]})"
    return found


async def test_every_query_asks_for_metrics_and_labels_that_are_exported(exported):
    samples: dict[str, set[str]] = {}
    for _, found in exported.values():
        for name, labels in found.items():
            samples.setdefault(name, set()).update(labels)
    for place, expression in queries().items():
        asked = promql.read(expression)
        grouped = asked.pop("")
        assert asked, place
        assert asked.keys() <= samples.keys(), (place, asked.keys() - samples.keys())
        known = set().union(*(samples[name] for name in asked)) | TARGET_LABELS
        for name, labels in asked.items():
            assert labels <= samples[name] | TARGET_LABELS, (place, name)
        assert grouped <= known, place


async def test_every_metric_of_ours_is_on_a_dashboard_or_in_an_alert(exported):
    asked = {name for expression in queries().values() for name in promql.read(expression)}
    ours = {name for families, _ in exported.values() for name in families if name.startswith(("mdw_", "grpc_"))}
    shown = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in asked}
    assert ours - shown - asked == set()


async def test_the_guide_lists_every_metric_and_who_exports_it(exported):
    listed = {}
    for line in GUIDE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and re.fullmatch(r"`(mdw|grpc)_\w+`", cells[0]):
            listed[cells[0].strip("`")] = set(cells[1].split(", "))
    real: dict[str, set[str]] = {}
    for process, (families, _) in exported.items():
        for name in families:
            if name.startswith(("mdw_", "grpc_")) and not name.endswith("_created"):
                real.setdefault(name, set()).add(process)
    assert listed == real


def test_every_alert_has_a_section_that_says_what_to_do():
    headings = set(re.findall(r"^#### (Mdw\w+)$", GUIDE.read_text(), re.MULTILINE))
    for rule in alerts():
        anchor = rule["annotations"]["runbook_url"].partition("docs/operations.md#")[2]
        assert anchor == rule["alert"].lower()
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert headings == {rule["alert"] for rule in alerts()}


def test_the_rules_of_compose_are_those_of_the_cluster():
    assert manifests.RULES.read_text() == manifests.rules(), "run make manifests"


def test_panels_have_a_title_a_place_of_their_own_and_one_id_each():
    for board in dashboards().values():
        panels = board["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        taken: set[tuple[int, int]] = set()
        for panel in panels:
            place = panel["gridPos"]
            left, top = place["x"], place["y"]
            cells = {(left + x, top + y) for x in range(place["w"]) for y in range(place["h"])}
            assert panel["title"]
            assert place["x"] + place["w"] <= 24
            assert not taken & cells, panel["title"]
            taken |= cells


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("up", {"up": set(), "": set()}),
        ('sum by (le, a) (rate(x_bucket{code=~"A|B",n!="1"}[5m]))', {"x_bucket": {"code", "n"}, "": {"le", "a"}}),
        ("max(a) > 0 and on () (sum(rate(b[30m])) == 0)", {"a": set(), "b": set(), "": set()}),
        ('a{s="x"} / ignoring (s) a{t="y"}', {"a": {"s", "t"}, "": {"s"}}),
    ],
)
def test_expressions_are_read(expression, found):
    assert promql.read(expression) == found
