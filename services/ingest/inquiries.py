"""What slices of another kind than one series' span have in common: they ask for something, and take the answer in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from services.ingest.store.slices import Claim

    Ask = Callable[[str], Awaitable[tuple[Claim, bytes]]]
    """Sends a request, by path and query: returns its body, and the claim with the time of asking.

    A second one under the same claim needs a grant of its own: AskLaterError where there is none.
    """


class AskLaterError(Exception):
    """The slice goes back without an attempt burned, to be asked for again in so many seconds."""

    def __init__(self, reason: str, *, wait: float = 0) -> None:
        super().__init__(reason)
        self.wait = wait


class Inquiry(Protocol):
    """Brings slices of one kind on."""

    async def advance(self, claim: Claim, ask: Ask) -> int | None:
        """Asks for what comes next and takes it in; returns the slice's state, None when it is no longer ours.

        Raises PolygonError, NoProgressError, AskLaterError, or MdwError when the database is away.
        """
