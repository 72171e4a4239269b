from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from services.kit import keys, log
from tests.waiting import until


@pytest.fixture
def lines():
    stream = io.StringIO()
    before = structlog.get_config()
    level = logging.getLogger().level
    log.configure(level="DEBUG", form="json", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.configure(**before)
    logging.getLogger().setLevel(level)
    log._lines.target = None
    for handler in list(logging.getLogger().handlers):
        if isinstance(handler, log._Forward):
            logging.getLogger().removeHandler(handler)


def test_an_event_is_one_json_object(lines):
    log.get("part").info("something_happened", number=1, id=keys)
    (line,) = lines()
    assert (line["event"], line["number"], line["part"], line["level"]) == ("something_happened", 1, "part", "info")
    assert line["timestamp"].endswith("Z")


def test_keys_and_passwords_are_shortened_wherever_they_stand(lines):
    secret = keys.new_secret()
    try:
        int(secret)
    except ValueError:
        log.get("part").exception("failed", url=f"postgres://mdw:{secret}@db/x", other="postgres://mdw:pass@db/x")
    text = json.dumps(lines())
    assert secret not in text
    assert "pass@" not in text
    assert "mdw:***@db" in text


def test_records_of_other_libraries_come_through_redacted(lines):
    secret = keys.new_secret()
    logging.getLogger("grpc._cython.cygrpc").error("Invalid encoding on %s", secret.encode() + b"\xff")
    logging.getLogger("asyncio").warning("slow")
    first, second = lines()
    assert first["event"] == f"Invalid encoding on b'{secret[:12]}...\\xff'"
    assert (first["part"], second["event"]) == ("grpc._cython.cygrpc", "slow")


async def test_call_lines_are_written_together(lines):
    call_lines = log.CallLines()
    call_lines.write({"event": "call", "method": "ListBars", "code": "OK"})
    call_lines.write({"event": "call", "method": keys.new_secret(), "code": "OK"})
    assert [line for line in lines() if line["event"] == "call"] == []
    await until(lambda: [line for line in lines() if line["event"] == "call"])
    first, second = (line for line in lines() if line["event"] == "call")
    assert (first["event"], first["method"]) == ("call", "ListBars")
    assert len(second["method"]) == 15


async def test_levels_hold_for_call_lines(lines):
    stream = io.StringIO()
    log.configure(level="WARNING", form="json", stream=stream)
    call_lines = log.CallLines()
    call_lines.write({"event": "call", "method": "ListBars"})
    call_lines.flush()
    assert stream.getvalue() == ""


def test_a_terminal_gets_colours_and_no_json():
    stream = io.StringIO()
    before = structlog.get_config()
    log.configure(form="console", stream=stream)
    log.get("part").info("hello", secret=keys.new_secret())
    structlog.configure(**before)
    assert "hello" in stream.getvalue()
    assert "..." in stream.getvalue()
