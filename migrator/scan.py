"""Finds the statements of an SQL file by PostgreSQL's lexical rules, without judging what they mean."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

HEAD_TOKENS = 40

TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<line_comment>--[^\n]*)
  | (?P<block_comment>/\*)
  | (?P<string>[eE]'[^'\\]*(?:(?:\\.|'')[^'\\]*)*' | '[^']*(?:''[^']*)*')
  | (?P<quoted>"[^"]*(?:""[^"]*)*")
  | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
  | (?P<word>[^\W\d][\w$]*)
  | (?P<number>\d[\w.]*)
  | (?P<semicolon>;)
  | (?P<open>\()
  | (?P<close>\))
  | (?P<backslash>\\)
  | (?P<unterminated>['"])
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
COMMENT_EDGE = re.compile(r"/\*|\*/")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: where it stands, its first tokens as written, and all its unquoted words in upper case."""

    start: int
    end: int
    head: tuple[str, ...]
    words: frozenset[str]

    @property
    def verbs(self) -> tuple[str, ...]:
        """The first tokens in upper case."""
        return tuple(token.upper() for token in self.head)


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something at an offset that no SQL file may hold."""

    offset: int
    message: str
    hint: str = ""


@dataclass(slots=True)
class Scan:
    """What a file holds: its statements, and what makes it unreadable."""

    statements: list[Statement] = field(default_factory=list)
    flaws: list[Flaw] = field(default_factory=list)


@dataclass(slots=True)
class _Open:
    """The statement being read."""

    start: int = -1
    parens: int = 0
    blocks: int = 0
    head: list[str] = field(default_factory=list)
    words: set[str] = field(default_factory=set)

    def add(self, token: str, at: int) -> None:
        if self.start < 0:
            self.start = at
        if len(self.head) < HEAD_TOKENS:
            self.head.append(token)

    def word(self, token: str) -> None:
        """Follows BEGIN ATOMIC bodies, whose semicolons end nothing, as psql does."""
        upper = token.upper()
        self.words.add(upper)
        if self.parens or not self._is_routine():
            return
        if upper == "BEGIN" or (upper == "CASE" and self.blocks):
            self.blocks += 1
        elif upper == "END" and self.blocks:
            self.blocks -= 1

    def _is_routine(self) -> bool:
        head = [token.upper() for token in self.head[:4]]
        if head[1:3] == ["OR", "REPLACE"]:
            del head[1:3]
        return head[:1] == ["CREATE"] and head[1:2] in (["FUNCTION"], ["PROCEDURE"])


def scan(sql: str) -> Scan:
    """Splits a file at the semicolons that end statements."""
    result, current, at = Scan(), _Open(), 0
    while at < len(sql):
        match = TOKEN.match(sql, at)
        assert match is not None  # noqa: S101 - the last alternative matches any character
        kind, text, end = match.lastgroup, match.group(), match.end()
        if kind == "semicolon" and not current.parens and not current.blocks:
            _close(result, current, at)
            current = _Open()
        elif kind in ("block_comment", "dollar", "unterminated", "backslash"):
            end = _long_token(sql, match, current, result)
        elif kind not in ("space", "line_comment"):
            _short_token(current, str(kind), text, at)
        at = end
    _close(result, current, len(sql))
    return result


def line_and_column(sql: str, offset: int) -> tuple[int, int]:
    """Turns an offset into a line and a column, both counted from 1."""
    return sql.count("\n", 0, offset) + 1, offset - (sql.rfind("\n", 0, offset) + 1) + 1


def _short_token(current: _Open, kind: str, text: str, at: int) -> None:
    current.add(text, at)
    if kind == "word":
        current.word(text)
    elif kind == "open":
        current.parens += 1
    elif kind == "close":
        current.parens = max(0, current.parens - 1)


def _long_token(sql: str, match: re.Match[str], current: _Open, result: Scan) -> int:
    """Reads a token whose end the pattern cannot see; returns where it ends."""
    kind, text, at = match.lastgroup, match.group(), match.start()
    if kind == "block_comment":
        end = _comment_end(sql, at)
        if end < 0:
            result.flaws.append(Flaw(at, "a comment that begins here is never closed"))
        return len(sql) if end < 0 else end
    if kind == "backslash":
        result.flaws.append(Flaw(at, "a psql command, which only psql understands", "write plain SQL"))
        end = sql.find("\n", at)
        return len(sql) if end < 0 else end
    current.add(text, at)
    end = sql.find(text, at + len(text)) if kind == "dollar" else -1
    if end < 0:
        result.flaws.append(Flaw(at, f"a quotation that begins here with {text} is never closed"))
        return len(sql)
    return end + len(text)


def _comment_end(sql: str, at: int) -> int:
    depth = 0
    for edge in COMMENT_EDGE.finditer(sql, at):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return -1


def _close(result: Scan, current: _Open, end: int) -> None:
    if current.head:
        result.statements.append(Statement(current.start, end, tuple(current.head), frozenset(current.words)))
