"""`new-key`: makes a secret, for a Secret object or a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrator.errors import Exit

if TYPE_CHECKING:
    import argparse

    from migrator.output import Output


async def run(options: argparse.Namespace, output: Output, _: str) -> Exit:
    """Runs the command."""
    from services.kit import keys  # noqa: PLC0415 - the other commands start without it

    secret = keys.new_secret()
    preview = keys.preview(secret)
    if options.key_file:
        from migrator.key_file import write_new  # noqa: PLC0415 - seldom asked for

        write_new(options.key_file, secret)
        output.result({"preview": preview, "key_file": str(options.key_file)}, f"{preview}.. is in {options.key_file}")
    else:
        output.result({"secret": secret, "preview": preview}, secret)
    return Exit.OK
