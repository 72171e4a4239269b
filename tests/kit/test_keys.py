from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit import keys


def test_a_new_secret_is_well_formed_and_new_each_time():
    made = {keys.new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(keys.is_well_formed(secret) for secret in made)
    assert all(len(secret) == 76 for secret in made)


@given(st.integers(0, 75), st.sampled_from("0123456789abcdefX"))
def test_any_changed_character_breaks_the_checksum(place, sign):
    secret = keys.new_secret()
    changed = secret[:place] + sign + secret[place + 1 :]
    assert keys.is_well_formed(changed) == (changed == secret)


@pytest.mark.parametrize(
    "text",
    ["", "mdw_", "mdw_" + "0" * 72, "mdw_" + "A" * 72, " " + keys.new_secret(), "x" * 76],
    ids=["empty", "prefix", "checksum", "upper", "space", "letters"],
)
def test_what_is_no_key_is_not_well_formed(text):
    assert not keys.is_well_formed(text)


def test_a_line_feed_at_the_end_is_no_part_of_a_key():
    assert not keys.is_well_formed(keys.new_secret() + "\n")


def test_digest_and_preview():
    secret = keys.new_secret()
    assert keys.digest(secret) == hashlib.sha256(secret.encode()).digest()
    assert keys.preview(secret) == secret[:12]
