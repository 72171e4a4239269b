"""The command line: `python -m migrator <command>`."""

from __future__ import annotations

import sys

from migrator.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
