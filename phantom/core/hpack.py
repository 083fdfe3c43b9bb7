"""Header blocks of HTTP/2 (HPACK, RFC 7541), as far as an opening inside TLS needs them.

Only the first block of a connection, so there is no dynamic table to follow; what is read
are single values.  The choices are Chromium's: what the static table
has is indexed, pseudo headers other than :authority are not added to the dynamic table,
everything else is, and a string is Huffman-coded when that makes it shorter.
"""

from __future__ import annotations

from collections.abc import Iterable

from phantom.errors import LocalProtocolError, RemoteProtocolError

#: Names of the static table that are used here, with their indices (RFC 7541, appendix A).
_NAMES = {
    ":authority": 1,
    ":method": 2,
    ":path": 4,
    ":scheme": 6,
    ":status": 8,
    "accept-encoding": 16,
    "accept-language": 17,
    "accept": 19,
    "content-length": 28,
    "content-type": 31,
    "date": 33,
    "referer": 51,
    "server": 54,
    "user-agent": 58,
}

#: Likewise whole fields.
_FIELDS = {(":method", "POST"): 3, (":scheme", "https"): 7, (":status", "200"): 8}

#: The Huffman code (RFC 7541, appendix B) is canonical: codes of one length are consecutive
#: numbers in the order of their symbols, so lengths say it all.  Symbols of more than 15
#: bits do not occur in what a browser sends; NUL is here only because it takes up a code.
_LENGTHS = {
    5: "012aceiost",
    6: " %-./3456789=A_bdfghlmnpru",
    7: ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: "&*,;XZ",
    10: '!"()?',
    11: "'+|",
    12: "#>",
    13: "\0$@[]~",
    14: "^}",
    15: "<`{",
}

_HUFFMAN = 0x80  # the bit that marks a string as coded (RFC 7541, section 5.2)
_INDEXED = 0x80  # section 6.1
_LITERAL_INDEXING = 0x40  # section 6.2.1
_LITERAL = 0x00  # section 6.2.2
_TABLE_SIZE = 0x20  # section 6.3, in the first three bits


def _codes() -> dict[str, tuple[int, int]]:
    codes: dict[str, tuple[int, int]] = {}
    code = previous = 0
    for length, symbols in _LENGTHS.items():
        code <<= length - previous
        previous = length
        for symbol in symbols:
            codes[symbol] = code, length
            code += 1
    return codes


_CODES = _codes()
_SYMBOLS = {(length, code): symbol for symbol, (code, length) in _CODES.items()}
_LONGEST = max(_LENGTHS)


def _integer(value: int, prefix: int, flags: int) -> bytes:
    """Encode an integer behind `flags` in a first byte with `prefix` bits (section 5.1)."""
    limit = (1 << prefix) - 1
    if value < limit:
        return bytes((flags | value,))
    output = bytearray((flags | limit,))
    value -= limit
    while value >= 0x80:
        output.append(value & 0x7F | 0x80)
        value >>= 7
    output.append(value)
    return bytes(output)


def encode_string(text: str) -> bytes:
    """Encode a string literal (section 5.2).

    Raises:
        LocalProtocolError: A character that no header of ours may have.
    """
    bits = size = 0
    for symbol in text:
        code = _CODES.get(symbol)
        if code is None or symbol == "\0":
            raise LocalProtocolError("a character that does not fit an HTTP/2 header")
        bits = bits << code[1] | code[0]
        size += code[1]
    padding = -size % 8
    coded = (bits << padding | (1 << padding) - 1).to_bytes((size + padding) // 8, "big")
    if len(coded) < len(text):
        return _integer(len(coded), 7, _HUFFMAN) + coded
    return _integer(len(text), 7, 0) + text.encode("ascii")


def decode_string(first: int, data: bytes) -> str:
    """Return the string that `encode_string` made.

    Args:
        first: The byte with the length.
        data: What follows it, as many bytes as that says.

    Raises:
        RemoteProtocolError: It is none, or has characters unusual in a host.
    """
    if not first & _HUFFMAN:
        try:
            return data.decode("ascii")
        except UnicodeDecodeError:
            raise RemoteProtocolError("a string that is not ASCII") from None
    text = ""
    code = length = 0
    for byte in data:
        for shift in range(7, -1, -1):
            code = code << 1 | byte >> shift & 1
            length += 1
            symbol = _SYMBOLS.get((length, code))
            if symbol is not None:
                text += symbol
                code = length = 0
            elif length > _LONGEST:
                raise RemoteProtocolError("an unusual Huffman code")
    # Padding is at most seven bits, all of them set (section 5.2).
    if length > 7 or code != (1 << length) - 1:
        raise RemoteProtocolError("wrong Huffman padding")
    return text


def find_value(block: bytes, name: str) -> str | None:
    """Return the value of a field whose name is in the static table, if it is spelt out.

    Args:
        block: The first header block of a connection.
        name: In lower case; one that this module knows.

    Returns:
        None if it is not found, or the block is not as it should be.
    """
    wanted = _NAMES[name]
    position = 0
    try:
        while position < len(block):
            first = block[position]
            if first & _INDEXED:
                position = _decode_integer(block, position, 7)[1]
                continue
            if first & 0xE0 == _TABLE_SIZE:
                position = _decode_integer(block, position, 5)[1]
                continue
            index, position = _decode_integer(
                block, position, 6 if first & _LITERAL_INDEXING else 4
            )
            if not index:
                size, position = _decode_integer(block, position, 7)
                position += size
            coded = block[position]
            size, position = _decode_integer(block, position, 7)
            if index == wanted:
                return decode_string(coded, block[position : position + size])
            position += size
    except (IndexError, RemoteProtocolError):
        return None
    return None


def _decode_integer(data: bytes, position: int, prefix: int) -> tuple[int, int]:
    """Return the integer at `position` (section 5.1), and where it ends."""
    limit = (1 << prefix) - 1
    value = data[position] & limit
    position += 1
    if value < limit:
        return value, position
    shift = 0
    while True:
        byte = data[position]
        position += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
        if shift > 21:  # four megabytes: no header block is that long
            raise RemoteProtocolError("an integer too long")


def encode_field(name: str, value: str) -> bytes:
    """Encode one field as the first of its name on a connection.

    Args:
        name: In lower case.
        value: Printable ASCII.
    """
    whole = _FIELDS.get((name, value))
    if whole is not None:
        return _integer(whole, 7, _INDEXED)
    remember = not name.startswith(":") or name == ":authority"
    prefix, flags = (6, _LITERAL_INDEXING) if remember else (4, _LITERAL)
    index = _NAMES.get(name)
    known = _integer(index or 0, prefix, flags)
    return known + (b"" if index else encode_string(name)) + encode_string(value)


def encode_block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Encode a header block, the first one of its connection."""
    return b"".join(encode_field(name, value) for name, value in fields)
