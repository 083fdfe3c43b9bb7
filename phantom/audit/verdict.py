"""What a detector says."""

from __future__ import annotations

from enum import Enum

import attrs


class Status(Enum):
    """How a check ended."""

    #: The detector finds nothing.
    PASSED = "ok"
    #: The detector finds the tunnel.
    FAILED = "FAIL"
    #: Measured, and known to be visible: told, but no reason for a failing exit status.
    NOTED = "note"
    #: Not applicable, or not enough to judge by.
    SKIPPED = "skipped"


@attrs.frozen(slots=True, kw_only=True)
class Verdict:
    """One line of the audit.

    Attributes:
        detector: Its name, as ``--only`` takes it.
        status: How it ended.
        measured: The figure, in words.
        threshold: What would be a failure, in words.
        source: Where the rule or the threshold comes from.
        details: What was found, a line each; never secrets, so that it can be passed on.
    """

    detector: str
    status: Status
    measured: str
    threshold: str
    source: str
    details: tuple[str, ...] = ()


@attrs.frozen(slots=True, kw_only=True)
class Rule:
    """What all verdicts of a detector have in common.

    Attributes:
        detector: Its name.
        threshold: What would be a failure, in words.
        source: Where the rule comes from.
    """

    detector: str
    threshold: str
    source: str

    def judge(self, good: bool, measured: str, details: tuple[str, ...] = ()) -> Verdict:
        """Return a verdict that passes or fails."""
        return self._say(Status.PASSED if good else Status.FAILED, measured, details)

    def skip(self, why: str) -> Verdict:
        """Return a verdict that says why there is none."""
        return self._say(Status.SKIPPED, why)

    def note(self, measured: str, details: tuple[str, ...] = ()) -> Verdict:
        """Return a figure without a judgement."""
        return self._say(Status.NOTED, measured, details)

    def _say(self, status: Status, measured: str, details: tuple[str, ...] = ()) -> Verdict:
        return Verdict(
            detector=self.detector,
            status=status,
            measured=measured,
            threshold=self.threshold,
            source=self.source,
            details=details,
        )
