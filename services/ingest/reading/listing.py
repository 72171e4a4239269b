"""Fills one page from several symbols, one after the other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.kit.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.ingest.reading.answers import Question
    from services.ingest.reading.blocks import Block
    from services.ingest.reading.pages import Position
    from services.ingest.reading.reader import Reader
    from services.ingest.reading.receipts import Receipt
    from services.ingest.store.symbols import Symbol

# A page that went through many symbols without bars ends early, with a token.
MOST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Says where a page begins: in which symbol, and where in it (None: at its start)."""

    symbol_id: int
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """Holds the bars of a page by symbol, the symbols it went through, and where the next page begins."""

    blocks: list[tuple[Symbol, Block]]
    symbols: Sequence[Symbol]
    next: Place | None


async def list_bars(
    reader: Reader, question: Question, symbols: Sequence[Symbol], receipt: Receipt, *, place: Place | None, size: int
) -> Listed:
    """Returns at most `size` bars from a place on; the symbols are all of the question's, in order.

    Raises PAGE_TOKEN_INVALID if the place is in none of them.
    """
    ids = [symbol.symbol_id for symbol in symbols]
    if place and place.symbol_id not in ids:
        raise InvalidArgument(
            "page_token", "goes on in a symbol that is not served any more", reason="PAGE_TOKEN_INVALID"
        )
    first = ids.index(place.symbol_id) if place else 0
    position, begun = place.position if place else None, time.monotonic()
    blocks: list[tuple[Symbol, Block]] = []
    for at in range(first, len(symbols)):
        page = await reader.page(question, symbols[at], receipt, position=position, size=size)
        blocks.append((symbols[at], page.bars))
        size -= len(page.bars)
        position = None
        if page.next is not None:
            return Listed(blocks, symbols[first : at + 1], Place(ids[at], page.next))
        if at + 1 < len(symbols) and (size == 0 or time.monotonic() - begun > MOST_SECONDS):
            return Listed(blocks, symbols[first : at + 1], Place(ids[at + 1]))
    return Listed(blocks, symbols[first:], None)
