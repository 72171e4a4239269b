"""Runs the benches one after the other, each on a Postgres of its own; prints one table and writes .mdw/bench.json.

`python -m tests.bench [--short] [NAME ...]`: --short measures little, to see that all of them run; NAME picks modules.
It fails where a bench does, or where a promised row is missing; never for a figure.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# Module, and the arguments of its short form: rounds and sizes.
BENCHES = {
    "writing": ("1", "20000", "2000"),
    "backfill": ("1", "2", "10"),
    "days": ("200", "8", "24"),
    "reading": ("20000", "1", "30000"),
    "calls": ("1", "480"),
    "statistics": ("40000",),
    "bench_migrator": ("1",),
}
# What a bench logs may stand before what it prints.
JSON = re.compile(r"^[\[{]$.*", re.MULTILINE | re.DOTALL)
PROMISED = {
    *("write_fresh", "write_fresh_2", "backfill", "rewrite", "correct_1pct", "day_parts", "growth", "growth_day"),
    *("import_day", "stream", "call_overhead", "recorded_calls", "as_of", "statistics", "migrate_noop"),
}
COLUMNS = ("name", "ours", "limit", "rival", "ratio", "target", "reached")


def run(module: str, arguments: tuple[str, ...]) -> list[dict[str, Any]]:
    """Returns the rows that a bench prints; its end with an error is one of ours."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.bench.{module}", *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    found = JSON.search(done.stdout)
    printed = json.loads(found.group() if found else done.stdout)
    return printed if isinstance(printed, list) else [printed]


def table(rows: list[dict[str, Any]]) -> Table:
    """Lays the rows out; what a row says beside the common columns stands in the file alone."""
    laid = Table(*COLUMNS, box=None)
    for row in rows:
        laid.add_row(*("" if row.get(name) is None else str(row[name]) for name in COLUMNS))
    return laid


def write(rows: list[dict[str, Any]], name: str = "bench.json") -> None:
    """Keeps what is measured so far."""
    file = Path(os.environ.get("MDW_STATE", ".mdw")) / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(rows, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--short", action="store_true", help="measure little, to see that all of them run")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for module, short in BENCHES.items():
        if not options.names or module in options.names:
            print(f"{module} ...", file=sys.stderr, flush=True)  # noqa: T201
            rows += run(module, short if options.short else ())
            write(rows)
    Console().print(table(rows))
    missing = set() if options.names else PROMISED - {row["name"] for row in rows}
    if missing:
        raise SystemExit(f"not measured: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main()
