"""Reads the metrics and labels that a PromQL expression names; knows as much of the language as our queries use."""

from __future__ import annotations

import re

FUNCTIONS = {
    "sum", "max", "min", "count", "avg", "rate", "increase", "histogram_quantile", "absent", "vector", "sort_desc",
}  # fmt: skip
WORDS = {"by", "without", "on", "ignoring", "and", "or", "unless", "bool"}
_STRINGS = re.compile(r'"[^"]*"')
_SELECTOR = re.compile(r"([a-z_][a-z0-9_]*)\{([^}]*)\}")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
_NAME = re.compile(r"\b[a-z_][a-z0-9_]*\b(?!\s*\()")
_CALLED = re.compile(r"\b([a-z_]+)\s*\(")
_RANGE = re.compile(r"\[[^\]]*\]")


def read(expression: str) -> dict[str, set[str]]:
    """Returns the metrics with the labels that are asked of each, those of groupings under ''."""
    plain = _RANGE.sub("", _STRINGS.sub('""', expression))
    unknown = set(_CALLED.findall(plain)) - FUNCTIONS - WORDS
    assert not unknown, f"functions that this reader does not know: {unknown}"
    found: dict[str, set[str]] = {"": set()}
    for name, labels in _SELECTOR.findall(plain):
        found.setdefault(name, set()).update(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", labels))
    for labels in _GROUPING.findall(plain):
        found[""].update(part.strip() for part in labels.split(",") if part.strip())
    rest = _GROUPING.sub("", _SELECTOR.sub("", plain))
    for name in set(_NAME.findall(rest)) - WORDS:
        found.setdefault(name, set())
    return found
