from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import InvalidArgument
from services.kit.paging import PageTokens, page_size

TOKENS = PageTokens(b"secret of the schema")
position = st.lists(st.one_of(st.none(), st.text(), st.integers(-(2**63), 2**63 - 1)), max_size=5)


@given(position)
def test_a_token_gives_back_what_it_holds(last):
    assert TOKENS.read(TOKENS.make("List", b"f", last), "List", b"f") == last


@given(st.data())
def test_a_token_refuses_any_change(data):
    token = TOKENS.make("List", b"f", ["AAPL", 7, None])
    place = data.draw(st.integers(0, len(token) - 1))
    sign = data.draw(st.sampled_from("ABCabc019-_=+/ é"))
    changed = token[:place] + sign + token[place + 1 :]
    if changed != token:
        with pytest.raises(InvalidArgument) as caught:
            TOKENS.read(changed, "List", b"f")
        assert caught.value.reason == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize("token", ["x", "====", "é", "a" * 10_000, "\x00", TOKENS.make("List", b"f", [1]) + "="])
def test_what_is_no_token_is_refused(token):
    with pytest.raises(InvalidArgument):
        TOKENS.read(token, "List", b"f")


@pytest.mark.parametrize(
    ("tokens", "method", "filters"),
    [(TOKENS, "Other", b"f"), (TOKENS, "List", b"g"), (TOKENS, "Lis", b"tf"), (PageTokens(b"other"), "List", b"f")],
)
def test_a_token_serves_one_method_one_filter_one_schema(tokens, method, filters):
    with pytest.raises(InvalidArgument):
        tokens.read(TOKENS.make("List", b"f", [1]), method, filters)


def test_no_token_is_the_beginning():
    assert TOKENS.read("", "List", b"f") is None


def test_tokens_without_a_secret_are_a_bug():
    with pytest.raises(RuntimeError):
        PageTokens().make("List", b"", [1])


def test_the_secret_has_no_repr():
    assert "secret" not in repr(TOKENS)


@pytest.mark.parametrize(("asked", "given_"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
def test_a_page_size_is_defaulted_and_lowered(asked, given_):
    assert page_size(asked) == given_


def test_a_negative_page_size_is_refused():
    with pytest.raises(InvalidArgument):
        page_size(-1)
