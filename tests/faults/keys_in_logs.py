"""The tests of the services at DEBUG, with all that they and Postgres print and store: no whole key is in it.

Not collected by `make test`: `python -m pytest tests/faults/keys_in_logs.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from deploy.local.postgres import FAST_SETTINGS, EmbeddedPostgres

FOLDERS = ("tests/auth", "tests/kit", "tests/symbols", "tests/e2e/test_lost_answers.py", "tests/e2e/test_fuzz.py")
WHOLE = re.compile(rb"mdw_[0-9a-f]{72}")
MADE_UP = re.compile(rb"mdw_(0{8}|f{8})")
"""What tests send as a key, and everybody can see is none."""
LOGGED = {"log_statement": "all", "log_min_duration_statement": "0", "log_parameter_max_length": "-1"}


def test_no_whole_key_is_printed_or_logged_by_anything(tmp_path):
    server = EmbeddedPostgres(tmp_path / "server", settings={**FAST_SETTINGS, **LOGGED})
    server.start()
    printed = tmp_path / "printed"
    try:
        with printed.open("wb") as output:
            subprocess.run(
                [sys.executable, "-m", "pytest", "-s", "-q", "--tb=no", "-p", "no:cacheprovider", *FOLDERS],
                env={**os.environ, "DATABASE_URL": server.url(), "LOG_LEVEL": "DEBUG", "TESTS_ECHO": "1"},
                cwd=Path(__file__).parents[2],
                stdout=output,
                stderr=subprocess.STDOUT,
                check=True,
            )
    finally:
        server.stop()
    for text in (printed.read_bytes(), server.log.read_bytes()):
        assert len(text) > 1_000_000
        found = [each for each in WHOLE.findall(text) if not MADE_UP.match(each)]
        assert found == []
