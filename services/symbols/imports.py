"""What becomes of the rows of an import: created, registered already, or met by another symbol or row."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.symbols.spans import Holding, clash
from services.symbols.store.rows import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.symbols.store.rows import NewSymbol


@dataclass(slots=True)
class Plan:
    """Rows to create; rows whose outcome is known; and rows that meet an earlier one of the same import."""

    create: list[int] = field(default_factory=list)
    known: dict[int, Outcome] = field(default_factory=dict)
    after: dict[int, tuple[int, bool]] = field(default_factory=dict)
    """By row: the earlier one, and whether it is the same symbol."""

    def settle(self, ids: Mapping[int, int]) -> dict[int, Outcome]:
        """Returns all outcomes that hang on nothing else, given the ids of what was created."""
        met = {n: _met(earlier, ids[earlier], same=same) for n, (earlier, same) in self.after.items() if earlier in ids}
        return {**self.known, **{n: Outcome(symbol_id=symbol_id) for n, symbol_id in ids.items()}, **met}

    def expect(self) -> dict[int, Outcome]:
        """Returns what all outcomes would be; what would be created has no id."""
        return self.settle(dict.fromkeys(self.create, 0))


def plan(wanted: Mapping[int, NewSymbol], found: Mapping[int, Sequence[Holding]]) -> Plan:
    """Judges rows against who holds their tickers, and against each other: the earlier row wins."""
    made = Plan()
    earlier: dict[str, list[Holding]] = defaultdict(list)
    for n, new in wanted.items():
        holder, same = clash(new.span, new.asset_class, found[n])
        if holder:
            made.known[n] = Outcome(symbol_id=holder.symbol_id, existed=True) if same else Outcome(taken_by=holder)
            continue
        rivals = earlier[new.span.provider_ticker]
        rival, same = clash(new.span, new.asset_class, [each for each in rivals if each.span.overlaps(new.span)])
        if rival:
            made.after[n] = (rival.symbol_id, same)
        else:
            made.create.append(n)
            rivals.append(Holding(symbol_id=n, asset_class=new.asset_class, span=new.span))
    return made


def _met(row: int, symbol_id: int, *, same: bool) -> Outcome:
    return Outcome(symbol_id=symbol_id, existed=True) if same else Outcome(taken_by_row=row)
