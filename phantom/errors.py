"""The error taxonomy, and the one table that says what each failure is called elsewhere.

Every error phantom raises on purpose derives from `PhantomError`.  A failure to reach a
destination is an `Outcome`: one enumeration serves the wire, SOCKS, HTTP and the text a
person reads, so that the truth the server saw arrives unchanged at the application.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class PhantomError(Exception):
    """Base of every error that phantom raises on purpose."""


class ConfigurationError(PhantomError):
    """A mistake in a file, an option or the environment that its author can mend.

    Args:
        problem: What is wrong, without a trailing full stop.
        file: The file the mistake is in, if any.
        line: The line in that file, counted from 1, if known.
        column: The column in that line, counted from 1, if known.
        key: The dotted name of the setting, if any.
        fix: What to do about it: a command or a sentence.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
        key: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.file = file
        self.line = line
        self.column = column
        self.key = key
        self.fix = fix

    def __str__(self) -> str:
        """Return one line: ``file:line:column: key: problem (fix)``."""
        place = self.file or ""
        if self.file and self.line is not None:
            place = f"{self.file}:{self.line}"
            if self.column is not None:
                place = f"{place}:{self.column}"
        parts = [part for part in (place, self.key, self.problem) if part]
        text = ": ".join(parts)
        return f"{text} ({self.fix})" if self.fix else text


class ConfigurationErrors(ConfigurationError):
    """Several mistakes found in one pass, so that they can be mended in one pass.

    Args:
        errors: The mistakes, in the order of the file; at least one.
    """

    def __init__(self, errors: list[ConfigurationError]) -> None:
        super().__init__("; ".join(str(error) for error in errors))
        self.errors = errors

    def __str__(self) -> str:
        """Return the mistakes, one a line."""
        return "\n".join(str(error) for error in self.errors)


class ProtocolError(PhantomError):
    """A rule of the wire was broken."""


class LocalProtocolError(ProtocolError):
    """We were about to break the protocol: a bug on this side."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol.  The only error that parsing hostile bytes may raise."""


class HandshakeError(PhantomError):
    """A link could not be authenticated.  Its text never leaves this machine."""


class SessionError(PhantomError):
    """A session ended or could not be joined."""


class StreamError(PhantomError):
    """A stream ended otherwise than by a clean close.

    Args:
        problem: What happened.
        outcome: The reason in the terms of the wire.
    """

    def __init__(self, problem: str, outcome: Outcome | None = None) -> None:
        super().__init__(problem)
        self.outcome = Outcome.FAILED if outcome is None else outcome


class RelayError(PhantomError):
    """A destination could not be reached.

    Args:
        outcome: Why; never `Outcome.CONNECTED`.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(EXPLANATIONS[outcome].advice)
        self.outcome = outcome


class QuotaError(PhantomError):
    """A limit set by the operator was reached."""


class TimeoutExpired(PhantomError):  # noqa: N818  (the design's name for it)
    """Something took longer than its configured time."""


class Outcome(IntEnum):
    """What became of an attempt to reach a destination; the number is the wire code.

    Codes below 0x80 travel in OPEN_REPLY and RESET frames (doc/spec/wire.md, "Outcomes").
    Codes from 0x80 are only ever decided on this side and never sent.
    """

    CONNECTED = 0x00
    FAILED = 0x01
    FORBIDDEN = 0x02
    NETWORK_UNREACHABLE = 0x03
    HOST_UNREACHABLE = 0x04
    REFUSED = 0x05
    TIMED_OUT = 0x06
    UNRESOLVED = 0x07
    LIMIT = 0x08
    SHUTTING_DOWN = 0x09
    RESET = 0x0A
    CANCELLED = 0x0B
    QUOTA = 0x0C
    PROTOCOL = 0x0D

    SESSION_LOST = 0x80
    NO_LINK = 0x81

    @classmethod
    def from_wire(cls, code: int) -> Outcome:
        """Return the outcome for a received code; an unknown or local-only one is FAILED."""
        return _FROM_WIRE.get(code, cls.FAILED)


_FROM_WIRE = {int(outcome): outcome for outcome in Outcome if outcome < 0x80}


class Explanation(NamedTuple):
    """How one `Outcome` is said in other languages.

    Attributes:
        socks: The reply code of RFC 1928, section 6.
        http: The status of RFC 9110, section 15.
        advice: A sentence for a person: what happened and what to do.
    """

    socks: int
    http: int
    advice: str


EXPLANATIONS: dict[Outcome, Explanation] = {
    Outcome.CONNECTED: Explanation(0, 200, "Connected."),
    Outcome.FAILED: Explanation(1, 502, "The connection failed on the server's side. Try again."),
    Outcome.FORBIDDEN: Explanation(
        2,
        403,
        "The server does not relay to this destination. Its operator can allow it under "
        "[server.egress] allow.",
    ),
    Outcome.NETWORK_UNREACHABLE: Explanation(
        3, 502, "The server has no route to the destination's network."
    ),
    Outcome.HOST_UNREACHABLE: Explanation(4, 502, "The destination host could not be reached."),
    Outcome.REFUSED: Explanation(
        5, 502, "The destination refused the connection. Check the port, or that it is running."
    ),
    Outcome.TIMED_OUT: Explanation(6, 504, "The destination did not answer in time."),
    Outcome.UNRESOLVED: Explanation(
        4, 502, "The destination's name could not be resolved. Check its spelling."
    ),
    Outcome.LIMIT: Explanation(
        1, 503, "Too many connections at once. Close some, or raise max_streams on the server."
    ),
    Outcome.SHUTTING_DOWN: Explanation(1, 503, "The server is restarting. Try again in a moment."),
    Outcome.RESET: Explanation(1, 502, "The destination broke the connection off."),
    Outcome.CANCELLED: Explanation(1, 502, "The connection was given up."),
    Outcome.QUOTA: Explanation(2, 403, "Your quota on this server is used up. Ask its operator."),
    Outcome.PROTOCOL: Explanation(1, 502, "Client and server disagreed about the protocol."),
    Outcome.SESSION_LOST: Explanation(
        1, 502, "The tunnel's session was lost, and this connection with it. Try again."
    ),
    Outcome.NO_LINK: Explanation(
        1,
        503,
        "The tunnel has no link to its server. Check the network and the client's log; "
        "it keeps trying.",
    ),
}
