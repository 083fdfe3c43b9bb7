"""The octets of one request and its response, towards an application (RFC 9112).

h11 frames the bodies; the heads are checked by `phantom.core.httphead` before h11 reads them.
Nothing here knows a transport.
"""

from __future__ import annotations

from typing import Final

import attrs
import h11

from phantom.core.httphead import MAX_HEAD, Field, RequestHead
from phantom.core.httpproxy import list_members
from phantom.errors import RemoteProtocolError
from phantom.inbound.pages import Page

#: Octets of an unwanted body that are skipped to keep the connection; beyond it closing is
#: cheaper for both.
MAX_SKIPPED: Final = 64 * 1024


@attrs.frozen(slots=True)
class BodyPart:
    """What some octets of a request's body are.

    Attributes:
        data: Their content.
        trailers: The trailer section, if the body ends here; otherwise None.
        rest: Octets behind the end.
    """

    data: bytes
    trailers: list[Field] | None
    rest: bytes


class Framing:
    """One request, of which the head has been read, and its response.

    Args:
        head: The head.
        raw: Its octets.

    Attributes:
        head: The head.
        answered: Whether the response is complete.

    Raises:
        RemoteProtocolError: It is no head after all.
    """

    def __init__(self, head: RequestHead, raw: bytes) -> None:
        self.head = head
        self.answered = False
        self._chunked = False  # whether the response goes out in chunks
        # A new one for each request: its `trailing_data` is the public way to see what
        # is left of the input before h11 takes it for the next head.
        self._conn = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        try:
            self._conn.receive_data(raw)
            self._conn.next_event()
        except h11.RemoteProtocolError as error:
            # Nothing the check lets through comes here; if h11 is stricter one day, let it.
            raise RemoteProtocolError("this is not an HTTP request") from error
        if not head.has_body:
            self._conn.next_event()  # h11's own note of the end

    # -- the request's body -------------------------------------------------------------------

    def take_body(self, received: bytes) -> BodyPart:
        """Return what some octets of the body are.

        h11 is less strict about chunks and trailers than `phantom.core.httphead` about
        heads; that is harmless, because what goes on is framed anew.

        Raises:
            RemoteProtocolError: They are none.
        """
        pieces: list[bytes] = []
        trailers: list[Field] | None = None
        conn = self._conn
        try:
            conn.receive_data(received)
            while trailers is None:
                event = conn.next_event()
                if isinstance(event, h11.Data):
                    pieces.append(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    trailers = event.headers.raw_items()
                else:
                    break
        except h11.RemoteProtocolError as error:
            raise RemoteProtocolError("the request's body is malformed") from error
        rest = b"" if trailers is None else conn.trailing_data[0]
        # One piece of what came in one read, however small the chunks were.
        return BodyPart(b"".join(pieces), trailers, rest)

    @property
    def body_can_be_skipped(self) -> bool:
        """Whether the rest of an unwanted body is small, and sure to come."""
        length = self.head.length
        return (
            length is not None
            and length <= MAX_SKIPPED
            # Told no, such a client may send the body or may not (RFC 9110, section 10.1.1).
            and b"100-continue" not in list_members(self.head.fields, b"expect")
        )

    # -- the response -------------------------------------------------------------------------

    def interim(self, status: int, reason: bytes, fields: list[Field]) -> bytes:
        """Return the octets of a 1xx response."""
        return self._conn.send(
            h11.InformationalResponse(status_code=status, reason=reason, headers=fields)
        )

    def response(self, status: int, reason: bytes, fields: list[Field], *, close: bool) -> bytes:
        """Return the head of the final response.

        Args:
            status: 200 or more.
            reason: The reason phrase.
            fields: The fields, without Transfer-Encoding; with neither a Content-Length nor
                a status that has no body, it goes out in chunks, or to HTTP/1.0 until the
                connection closes.
            close: Whether the connection is to be closed after it.
        """
        if close:
            fields = [*fields, (b"Connection", b"close")]
        self._chunked = (
            self.head.version != b"1.0"
            and self.head.method != b"HEAD"
            and status not in (204, 304)
            and not any(name.lower() == b"content-length" for name, _ in fields)
        )
        return self._conn.send(h11.Response(status_code=status, reason=reason, headers=fields))

    def body(self, data: bytes) -> bytes:
        """Return the octets of some of the response's body."""
        return self._conn.send(h11.Data(data=data))

    def end(self, trailers: list[Field]) -> bytes:
        """Return the octets of the response's end; trailers only go with chunks."""
        self.answered = True
        return self._conn.send(h11.EndOfMessage(headers=trailers if self._chunked else []))

    @property
    def connection_ends(self) -> bool:
        """Whether the connection ends with the response, once that is complete."""
        return self._conn.our_state is not h11.DONE


def rejection(page: Page) -> bytes:
    """Return the whole response to what is no acceptable request."""
    fields = [
        *page.fields,
        (b"Content-Length", b"%d" % len(page.body)),
        (b"Connection", b"close"),
    ]
    conn = h11.Connection(h11.SERVER)  # whatever state the request left another in
    head = conn.send(h11.Response(status_code=page.status, reason=page.reason, headers=fields))
    return head + page.body
