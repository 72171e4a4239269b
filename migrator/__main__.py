"""The command line: `python -m migrator <command>`."""

from __future__ import annotations

import signal
import sys

TRY_AGAIN = 75


def _ended_before_it_began(_: int, __: object) -> None:
    sys.exit(TRY_AGAIN)


if __name__ == "__main__":
    # A Job that is stopped while Python still imports is one to try again, too; then the command takes signals itself.
    signal.signal(signal.SIGTERM, _ended_before_it_began)

    from migrator.cli import main

    sys.exit(main(sys.argv[1:]))
