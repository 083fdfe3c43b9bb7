"""The Date of an HTTP answer, from which a client learns that its clock is wrong."""

from __future__ import annotations

import re
from datetime import UTC, datetime

# RFC 9110, 5.6.7: IMF-fixdate, the only form a sender may use.  This century: what is further
# off is no clock that could be set right.
_DATE = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), "
    rb"([0-9]{2}) (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) (20[0-9]{2}) "
    rb"([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)
_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_FIELD = re.compile(rb"(?i)\r\ndate:[ \t]*([^\r\n]{1,64}?)[ \t]*\r\n")


def parse_date(value: bytes) -> float | None:
    """Return the seconds since the Unix epoch that a Date header names, None if it is none."""
    match = _DATE.fullmatch(value)
    if match is None:
        return None
    month = _MONTHS.index(match[2]) + 1
    day, year, hour, minute, second = (int(match[group]) for group in (1, 3, 4, 5, 6))
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()
    except ValueError:  # the 31st of February, or a leap second
        return None


def date_of_head(head: bytes) -> float | None:
    """Return what `parse_date` finds in the head of an answer; None without a whole one.

    Args:
        head: The answer from its first byte; what follows the head is ignored.
    """
    end = head.find(b"\r\n\r\n")
    match = _FIELD.search(head, 0, end + 2) if end >= 0 else None
    return None if match is None else parse_date(match[1])
