"""Padding schemes as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.config.padding import parse_scheme, scheme_text
from phantom.core.shaping import Scheme
from phantom.errors import ConfigurationError


def test_what_is_left_out_is_the_default() -> None:
    assert parse_scheme("4") == Scheme(version=4)
    assert parse_scheme("4 fill=3500-3600 share=9") == Scheme(
        version=4, low=3500, high=3600, share=9
    )


def test_a_scheme_reads_as_it_is_written() -> None:
    scheme = Scheme(version=9, tiny_low=1, allowance=0)
    assert parse_scheme(scheme_text(scheme)) == scheme


@pytest.mark.parametrize(
    "text",
    ["", "0", "x", "1 fill=3500", "1 least=x", "1 fill=9-3", "1 share=1000", "99999999999", "1 a=2",
     "4294967296", "1 fill=3500-9999"],
)  # fmt: skip
def test_others_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_scheme(text)


@given(st.text(max_size=40))
def test_any_text_is_a_scheme_or_a_mistake(text: str) -> None:
    try:
        parse_scheme(text)
    except ConfigurationError:
        pass
