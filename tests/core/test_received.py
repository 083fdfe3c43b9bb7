"""How frames of several links are numbered, and dealt with once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.received import ReceiveLog
from phantom.errors import RemoteProtocolError


def test_a_row_counts_as_its_frames() -> None:
    log = ReceiveLog()
    first = log.begin(0, 0)
    assert first.accept_row(3) == 0
    assert log.received == 3
    again = log.begin(1, 0)  # asked for from the second frame on
    assert again.accept_row(4) == 2
    assert log.received == 5
    assert first.accept_row(2) == 2, "the older link brings what has come already"
    assert log.received == 5


def test_a_gap_is_refused() -> None:
    log = ReceiveLog()
    ahead = log.begin(2, 0)
    with pytest.raises(RemoteProtocolError, match="gap"):
        ahead.accept_row(1)
    assert log.received == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=30))
def test_rows_and_single_frames_agree(steps: list[tuple[bool, int]]) -> None:
    rows, singles = ReceiveLog(), ReceiveLog()
    by_row = [rows.begin(0, 0), rows.begin(0, 0)]
    by_one = [singles.begin(0, 0), singles.begin(0, 0)]
    for other, count in steps:
        old = by_row[other].accept_row(count)
        new = [by_one[other].accept() for _ in range(count)]
        assert new == [False] * old + [True] * (count - old)
        assert rows.received == singles.received
