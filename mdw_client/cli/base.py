"""What the commands share: the client, the options that many take, and printing as a table or as JSON."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import click
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from mdw.type.v1 import type_pb2
from mdw_client.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

_WIDE, _HIGH = 1_000_000, 100
"""A row is a line, so that it can be searched and copied; a narrow terminal folds it."""


class App:
    """One run of the command."""

    def __init__(self) -> None:
        self.arguments: dict[str, Any] = {}
        self.as_json = False
        self._client: Client | None = None
        self.out = Console(highlight=False, soft_wrap=True, width=_WIDE, height=_HIGH)
        self.err = Console(highlight=False, stderr=True, soft_wrap=True)

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = Client(**self.arguments)
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def print(self, text: str) -> None:
        """Prints a line for people: to stderr where stdout carries JSON."""
        (self.err if self.as_json else self.out).print(text, markup=False)

    def one(self, message: Message, lines: Callable[[], Iterable[tuple[str, str]]]) -> None:
        """Prints one thing, as JSON or as names and values; empty values are left out."""
        if self.as_json:
            print_json(message)
            return
        grid = Table.grid(padding=(0, 2))
        for name, value in lines():
            if value:
                grid.add_row(name, value)
        self.out.print(grid, markup=False)

    def many(self, messages: Iterable[Message], columns: Sequence[str], row: Callable[[Any], Sequence[str]]) -> int:
        """Prints a list, as JSON lines or as a table; a column whose name ends with `#` is of numbers."""
        if self.as_json:
            return len([print_json(message) for message in messages])
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in columns:
            number = column.endswith("#")
            table.add_column(column.removesuffix("#"), justify="right" if number else "left")
        for message in messages:
            table.add_row(*row(message))
        self.out.print(table if table.row_count else "nothing", markup=False)
        return table.row_count


def _as_json(context: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001 # click's signature
    app = context.find_object(App)
    if app and value:
        app.as_json = True


def _json_option() -> click.Option:
    text = "Print JSON, an object a line."
    return click.Option(["--json"], is_flag=True, expose_value=False, callback=_as_json, help=text)


class Command(click.Command):
    """A command that takes --json."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_json_option())


class Group(click.Group):
    """A group that takes --json before its commands, which take it, too."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_json_option())


CLASSES = click.Choice(["stock", "etf", "crypto"])
class_option = click.option("--class", "asset_class", type=CLASSES, help="The kind of instrument.")
limit_option = click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many."
)
start_option = click.option("--start", metavar="TIME", help="Inclusive: 2024-05-01 or 2024-05-01T13:30Z.")
end_option = click.option("--end", metavar="TIME", help="Exclusive.")


def print_json(message: Message) -> str:
    """Prints a message as one line of JSON, fields as the contract names them; returns the line."""
    line = json.dumps(MessageToDict(message, preserving_proto_field_name=True), ensure_ascii=False)
    click.echo(line)
    return line


def first(items: Iterable[Any], limit: int) -> Iterable[Any]:
    return itertools.islice(items, limit)


def time(value: Timestamp) -> str:
    """Returns a time to the second in UTC; empty for an absent one."""
    return value.ToDatetime().isoformat(sep=" ", timespec="seconds") + "Z" if value.ByteSize() else ""


def date(value: Timestamp) -> str:
    """Returns a date; empty for an absent one."""
    return value.ToDatetime().date().isoformat() if value.ByteSize() else ""


def size(number: int) -> str:
    """Writes a number of bytes as people do, in powers of a thousand."""
    for unit, of in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= of:
            return f"{number / of:,.1f} {unit}"
    return f"{number / 1e3:,.1f} kB"


def asset_class(value: int) -> str:
    return _spoken(type_pb2.AssetClass, value, "ASSET_CLASS_")


def timeframe(value: int) -> str:
    return _spoken(type_pb2.Timeframe, value, "TIMEFRAME_")


def state(enum: Any, value: int, prefix: str = "") -> str:
    return _spoken(enum, value, prefix).upper()


def _spoken(enum: Any, value: int, prefix: str) -> str:
    return enum.Name(value).removeprefix(prefix).lower() if value in enum.values() else str(value)
