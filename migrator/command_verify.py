"""`verify`: the live catalog against what the files produce."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrator.errors import Exit
from migrator.verify import verify

if TYPE_CHECKING:
    import argparse

    from migrator.output import Output


async def run(options: argparse.Namespace, output: Output, dsn: str) -> Exit:
    """Runs the command."""
    schema_file = options.schema_file
    count = await verify(dsn, options.folder, wait=options.wait, allow_ahead=False, schema_file=schema_file)
    output.result({"objects": count, "differences": []}, f"the catalog is what the files produce ({count} objects)")
    return Exit.OK
