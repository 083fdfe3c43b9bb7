"""Dates of answers, right, wrong and hostile."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.httpdate import date_of_head, parse_date


@given(st.integers(946_684_800, 4_102_444_799))
def test_every_date_of_this_century(seconds: int) -> None:
    assert parse_date(formatdate(seconds, usegmt=True).encode()) == seconds


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Sun, 06 Nov 1994 08:49:37 GMT",  # no clock is that wrong
        b"Sunday, 06-Nov-94 08:49:37 GMT",  # the obsolete forms
        b"Sun Nov  6 08:49:37 2094",
        b"Sun, 31 Feb 2026 08:49:37 GMT",
        b"Sun, 01 Feb 2026 08:49:60 GMT",
        b"Sun, 01 Feb 2026 08:49:37 CET",
        b"Sun, 01 Feb 2026 08:49:37 GMT ",
    ],
)
def test_what_is_no_date(value: bytes) -> None:
    assert parse_date(value) is None


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 404 Not Found\r\nDate: Thu, 01 Jan 2026 00:00:10 GMT\r\nServer: nginx\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nServer: x\r\ndate:  Thu, 01 Jan 2026 00:00:10 GMT \r\n\r\nbody",
    ],
)
def test_a_head_with_a_date(head: bytes) -> None:
    assert date_of_head(head) == 1_767_225_610
    for end in range(head.index(b"\r\n\r\n") + 3):
        assert date_of_head(head[:end]) is None


def test_a_date_in_the_body_is_none_of_the_head() -> None:
    body = b"\r\nDate: Thu, 01 Jan 2026 00:00:10 GMT\r\n\r\n"
    assert date_of_head(b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n" + body) is None


@given(st.binary())
def test_random_bytes_raise_nothing(data: bytes) -> None:
    date_of_head(data)
    date_of_head(b"HTTP/1.1 200 OK\r\nDate: " + data + b"\r\n\r\n")
