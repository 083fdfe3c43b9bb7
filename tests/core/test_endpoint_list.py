"""The list of endpoints: its bytes, its bounds, and what it makes of nonsense."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.endpoint_list import (
    MAX_ENDPOINTS,
    MAX_LIST_SIZE,
    Carrier,
    EndpointList,
    ServerEndpoint,
)
from phantom.errors import RemoteProtocolError

KEY, OTHER = bytes(range(32)), bytes(range(64, 96))

#: Written down from a hand-made layout; the same bytes stand in doc/spec/wire.md.
LIST = EndpointList(
    version=7,
    issued=1_767_225_600,
    endpoints=(
        ServerEndpoint(
            host="a.example",
            port=443,
            public_key=KEY,
            carrier=Carrier.TLS,
            sni="www.a.example",
            pin=bytes(range(32, 64)),
        ),
        ServerEndpoint(host=ip_address("192.0.2.1"), port=8443, public_key=KEY),
        ServerEndpoint(
            host=ip_address("2001:db8::1"), port=443, public_key=OTHER, carrier=Carrier.TLS
        ),
    ),
)
GOLDEN = (
    "0000000000000007" + "000000006955b900" + "03"
    # 92 bytes: TLS, key, port 443, "a.example", "www.a.example", a pin
    + "005c" + "01" + KEY.hex() + "01bb" + "09" + b"a.example".hex()
    + "0d" + b"www.a.example".hex() + "20" + bytes(range(32, 64)).hex()
    # 47 bytes: TCP, key, port 8443, "192.0.2.1", neither name nor pin
    + "002f" + "00" + KEY.hex() + "20fb" + "09" + b"192.0.2.1".hex() + "00" + "00"
    + "0031" + "01" + OTHER.hex() + "01bb" + "0b" + b"2001:db8::1".hex() + "00" + "00"
)  # fmt: skip

names = st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z][a-z0-9]{0,9}){0,3}", fullmatch=True)
hosts = names | st.ip_addresses()
keys = st.binary(min_size=32, max_size=32)


@st.composite
def server_endpoints(draw):
    carrier = draw(st.sampled_from(Carrier))
    tls = carrier is Carrier.TLS
    return ServerEndpoint(
        host=draw(hosts),
        port=draw(st.integers(1, 65535)),
        public_key=draw(keys),
        carrier=carrier,
        sni=draw(st.none() | names) if tls else None,
        pin=draw(st.none() | keys) if tls else None,
    )


lists = st.builds(
    EndpointList,
    version=st.integers(1, 2**64 - 1),
    issued=st.integers(0, 2**64 - 1),
    endpoints=st.lists(server_endpoints(), min_size=1, max_size=6).map(tuple),
)


def test_golden_bytes() -> None:
    assert LIST.encode().hex() == GOLDEN
    assert EndpointList.decode(bytes.fromhex(GOLDEN)) == LIST


@given(lists)
def test_it_reads_back_as_the_same(made: EndpointList) -> None:
    assert EndpointList.decode(made.encode()) == made


def test_every_cut_and_every_addition_is_refused() -> None:
    whole = bytes.fromhex(GOLDEN)
    for end in range(len(whole)):
        with pytest.raises(RemoteProtocolError):
            EndpointList.decode(whole[:end])
    with pytest.raises(RemoteProtocolError):
        EndpointList.decode(whole + b"\0")


@given(st.binary(max_size=600))
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    try:
        EndpointList.decode(data)
    except RemoteProtocolError:
        pass


@given(st.integers(0, len(GOLDEN) // 2 - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_read(at: int, change: int) -> None:
    data = bytearray.fromhex(GOLDEN)
    data[at] ^= change
    try:
        made = EndpointList.decode(bytes(data))
    except RemoteProtocolError:
        return
    # One list, one spelling: what is accepted and known is written again as it came.
    if len(made.endpoints) == 3:
        assert made.encode() == bytes(data)


def entry(carrier: int = 0, host: bytes = b"h", name: bytes = b"", pin: bytes = b"") -> bytes:
    fields = b"".join(bytes([len(field)]) + field for field in (host, name, pin))
    body = bytes([carrier]) + KEY + (443).to_bytes(2, "big") + fields
    return len(body).to_bytes(2, "big") + body


def listed(*entries: bytes, version: int = 1) -> bytes:
    return version.to_bytes(8, "big") + bytes(8) + bytes([len(entries)]) + b"".join(entries)


@pytest.mark.parametrize(
    "data",
    [
        listed(),
        listed(*[entry()] * (MAX_ENDPOINTS + 1)),
        listed(entry(), version=0),
        listed(entry(host=b"")),
        listed(entry(host=b"H")),
        listed(entry(host=b"h.")),
        listed(entry(host=b"1.2")),
        listed(entry(host=b"\xff")),
        listed(entry(host=b"a b")),
        listed(entry(host=b"2001:DB8::1")),
        listed(entry(host=b"[::1]")),
        listed(entry(1, name=b"192.0.2.1")),
        listed(entry(1, pin=bytes(31))),
        listed(entry(0, name=b"a")),
        listed(entry(0, pin=bytes(32))),
        listed(entry(9)),
        bytes(MAX_LIST_SIZE + 1),
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        EndpointList.decode(data)


def test_an_unknown_carrier_is_skipped() -> None:
    made = EndpointList.decode(listed(entry(9, host=b"\xff\xff"), entry(host=b"b")))
    assert [endpoint.host for endpoint in made.endpoints] == ["b"]


@pytest.mark.parametrize(
    "change",
    [{"port": 0}, {"port": 65536}, {"public_key": b"short"}, {"pin": b"short"}, {"sni": "a"}],
)
def test_impossible_endpoints(change) -> None:
    with pytest.raises(ValueError):
        ServerEndpoint(**{"host": "h", "port": 1, "public_key": KEY, **change})


def test_bounds_of_the_encoder() -> None:
    one = ServerEndpoint(host="h", port=1, public_key=KEY)
    for wrong in ({"version": 0}, {"issued": -1}, {"endpoints": ()}, {"endpoints": (one,) * 33}):
        with pytest.raises(ValueError):
            EndpointList(**{"version": 1, "issued": 0, "endpoints": (one,), **wrong})
    long = ".".join(["a" * 60] * 4)
    wide = ServerEndpoint(host=long, port=1, public_key=KEY, carrier=Carrier.TLS, sni=long, pin=KEY)
    with pytest.raises(ValueError, match="more than 8192 bytes"):
        EndpointList(version=1, issued=0, endpoints=(wide,) * 32).encode()


def test_labels_tell_endpoints_apart_and_keys_are_not_in_reprs() -> None:
    labels = {endpoint.label for endpoint in LIST.endpoints}
    assert len(labels) == 3
    assert LIST.endpoints[2].label == "tls [2001:db8::1]:443 4041424344454647"
