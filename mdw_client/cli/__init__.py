"""The command `mdw`: the warehouse from a terminal, over public RPCs only."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command and ends the process with its status; docs/quickstart.md lists them."""
    try:
        from mdw_client.cli.app import run  # noqa: PLC0415 # click and rich are an extra
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(f"mdw: {error.name} is not installed: pip install 'mdw-client[cli]'")
    sys.exit(run(sys.argv[1:]))
