from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phantom.core.egress import (
    DENIED_IPV4,
    DENIED_IPV6,
    EgressPolicy,
    EgressRule,
    embedded_ipv4,
)

DEFAULT = EgressPolicy()


def rules(*texts: str) -> list[EgressRule]:
    return [EgressRule.parse(text) for text in texts]


def permits(policy: EgressPolicy, text: str, port: int = 443) -> bool:
    return policy.permits(ip_address(text), port)


# -- defaults -------------------------------------------------------------------------------

PERMITTED = """
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 93.184.216.34 100.63.255.255 100.128.0.0
    126.255.255.255 128.0.0.0 168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0
    172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0 192.167.255.255 192.169.0.0
    198.17.255.255 198.20.0.0 223.255.255.255
    2000:: 2001:4860:4860::8888 2606:4700::1111 2a00:1450:4001::200e 3ffe:ffff:: 2001:db9::
    2001:3::1 2001:db7:ffff::1
    ::ffff:8.8.8.8 ::8.8.8.8 ::ffff:0:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::1
    2001:0:808:808::f7f7:f7f7
"""

FORBIDDEN = """
    0.0.0.0 0.1.2.3 10.0.0.0 10.255.255.255 100.64.0.0 100.100.100.200 100.127.255.255
    127.0.0.1 127.255.255.255 168.63.129.16 169.254.0.1 169.254.169.254 172.16.0.0
    172.31.255.255 192.0.0.0 192.0.0.192 192.0.0.255 192.0.2.7 192.88.99.1 192.168.0.0
    192.168.255.255 198.18.0.0 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.0 224.0.0.251
    239.255.255.255 240.0.0.0 255.255.255.254 255.255.255.255
    :: ::1 100::1 100:0:0:1::1 64:ff9b:1::1 1fff::1 2001:2::1 2001:10::1 2001:20::1 2001:db8::1
    3fff::1 4000:: 5f00::1 fc00::1 fd00:ec2::254 fdff:ffff::1 fe80::1 fe80::1%eth0 febf::1
    fec0::1 feff::1 ff02::1 ff0e::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
"""


@pytest.mark.parametrize("text", PERMITTED.split())
def test_permitted_by_default(text: str) -> None:
    assert permits(DEFAULT, text)


@pytest.mark.parametrize("text", FORBIDDEN.split())
def test_forbidden_by_default(text: str) -> None:
    assert not permits(DEFAULT, text)


def test_no_default_denial_overlaps_another() -> None:
    for table in (DENIED_IPV4, DENIED_IPV6):
        for network in table:
            assert not [o for o in table if o is not network and network.overlaps(o)]


@given(st.integers(0, 2**32 - 1))
def test_nothing_that_python_calls_private_is_permitted_in_ipv4(value: int) -> None:
    address = IPv4Address(value)
    if DEFAULT.permits(address, 80):
        assert address.is_global
        assert not address.is_multicast


# -- IPv4 inside IPv6 -----------------------------------------------------------------------

EMBED = {
    "compatible": lambda v: v,
    "mapped": lambda v: 0xFFFF << 32 | v,
    "translated": lambda v: 0xFFFF0000 << 32 | v,
    "nat64": lambda v: 0x64FF9B << 96 | v,
    "nat64 local /96": lambda v: 0x64FF9B0001 << 80 | v,
    "nat64 local /64": lambda v: 0x64FF9B0001 << 80 | v << 24,
    "nat64 local /56": lambda v: 0x64FF9B0001 << 80 | (v >> 24) << 64 | (v & 0xFFFFFF) << 32,
    "nat64 local /48": lambda v: 0x64FF9B0001 << 80 | (v >> 16) << 64 | (v & 0xFFFF) << 40,
    "6to4": lambda v: 0x2002 << 112 | v << 80 | 0x1234,
    "teredo server": lambda v: 0x20010000 << 96 | v << 64 | (0x08080808 ^ 0xFFFFFFFF),
    "teredo client": lambda v: 0x20010000 << 96 | 0x08080808 << 64 | (v ^ 0xFFFFFFFF),
    "isatap": lambda v: 0x2606_4700 << 96 | 0x5EFE << 32 | v,
    "isatap global": lambda v: 0x2606_4700 << 96 | 0x0200_5EFE << 32 | v,
}

ipv4 = st.one_of(
    st.integers(0, 2**32 - 1),
    st.sampled_from(DENIED_IPV4).flatmap(
        lambda network: st.integers(int(network.network_address), int(network.broadcast_address))
    ),
).filter(lambda value: value > 1)  # ::0 and ::1 are IPv6's own
some_rules = st.lists(
    st.sampled_from(
        rules("10.0.0.0/8", "127.0.0.0/8:80", "0.0.0.0/0", "8.8.8.8", ":25", ":443", "2000::/3")
        + rules("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "::/0", "169.254.169.254:80")
        + rules("0.0.0.0/1", "128.0.0.0/1:1-1023")
    ),
    max_size=4,
)


@settings(max_examples=400)
@given(
    form=st.sampled_from(sorted(EMBED)),
    value=ipv4,
    allow=some_rules,
    deny=some_rules,
    port=st.sampled_from([25, 80, 443]),
)
def test_embedding_never_turns_a_refusal_into_a_permission(
    form: str, value: int, allow: list[EgressRule], deny: list[EgressRule], port: int
) -> None:
    policy = EgressPolicy(allow, deny, ["9.9.9.9"])
    inner, outer = IPv4Address(value), IPv6Address(EMBED[form](value))
    assert inner in embedded_ipv4(outer)
    if not policy.permits(inner, port):
        assert not policy.permits(outer, port)


@pytest.mark.parametrize("form", EMBED)
@pytest.mark.parametrize("inner", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "203.0.113.9"])
def test_embedded_forms_of_denied_addresses(form: str, inner: str) -> None:
    assert not DEFAULT.permits(IPv6Address(EMBED[form](int(IPv4Address(inner)))), 80)


@pytest.mark.parametrize("form", ["mapped", "compatible", "translated", "nat64"])
def test_allow_reaches_the_forms_that_are_the_same_host(form: str) -> None:
    policy = EgressPolicy(rules("10.0.0.0/8"))
    assert policy.permits(IPv6Address(EMBED[form](int(IPv4Address("10.1.2.3")))), 80)


def test_local_nat64_takes_an_explicit_allow() -> None:
    policy = EgressPolicy(rules("64:ff9b:1::/48"))
    assert permits(policy, "64:ff9b:1::8.8.8.8")
    assert not permits(policy, "64:ff9b:1::10.0.0.1")
    assert not permits(DEFAULT, "64:ff9b:1::8.8.8.8")


def test_deny_reaches_every_form() -> None:
    policy = EgressPolicy(deny=rules("8.8.8.8"))
    for make in EMBED.values():
        assert not policy.permits(IPv6Address(make(0x08080808)), 53)


# -- order ----------------------------------------------------------------------------------


def test_allow_exempts_from_the_defaults() -> None:
    policy = EgressPolicy(rules("10.0.0.0/8", "[fd00::/8]:8000-8099", "::1"))
    assert permits(policy, "10.1.2.3", 1)
    assert permits(policy, "fd00::1", 8000)
    assert permits(policy, "fd00::1", 8099)
    assert not permits(policy, "fd00::1", 8100)
    assert permits(policy, "::1")
    assert not permits(policy, "127.0.0.1")
    assert not permits(policy, "192.168.0.1")


def test_deny_outweighs_allow() -> None:
    policy = EgressPolicy(rules("10.0.0.0/8", "8.8.8.8"), rules("10.0.0.5", "8.8.0.0/16:53"))
    assert permits(policy, "10.0.0.4")
    assert not permits(policy, "10.0.0.5")
    assert permits(policy, "8.8.8.8", 443)
    assert not permits(policy, "8.8.8.8", 53)


def test_port_without_a_network() -> None:
    policy = EgressPolicy(deny=rules(":25"))
    assert not permits(policy, "8.8.8.8", 25)
    assert not permits(policy, "2606:4700::1111", 25)
    assert permits(policy, "8.8.8.8", 26)


def test_own_addresses() -> None:
    own = ["93.184.216.34", IPv6Address("2606:4700::5")]
    policy = EgressPolicy(own_addresses=own)
    for text in ("93.184.216.34", "2606:4700::5", "::ffff:93.184.216.34", "2002:5db8:d822::1"):
        assert not permits(policy, text)
    assert permits(policy, "93.184.216.35")
    assert permits(policy, "2606:4700::6")
    allowing = EgressPolicy(rules("93.184.216.34:443"), own_addresses=own)
    assert permits(allowing, "93.184.216.34", 443)
    assert not permits(allowing, "93.184.216.34", 22)


# -- rules ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "network", "low", "high"),
    [
        ("10.0.0.0/8", "10.0.0.0/8", 1, 65535),
        (" 10.0.0.1 ", "10.0.0.1/32", 1, 65535),
        ("10.0.0.0/8:443", "10.0.0.0/8", 443, 443),
        ("10.0.0.1:8000-8099", "10.0.0.1/32", 8000, 8099),
        ("fd00::/8", "fd00::/8", 1, 65535),
        ("::1", "::1/128", 1, 65535),
        ("[::1]", "::1/128", 1, 65535),
        ("[::1]:22", "::1/128", 22, 22),
        ("[fd00::/8]:1-2", "fd00::/8", 1, 2),
        ("[10.0.0.0/8]:5", "10.0.0.0/8", 5, 5),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8", 1, 65535),
        (":25", None, 25, 25),
        (":1-1023", None, 1, 1023),
    ],
)
def test_rules(text: str, network: str | None, low: int, high: int) -> None:
    expected = EgressRule(None if network is None else ip_network(network), low, high)
    assert EgressRule.parse(text) == expected
    assert EgressRule.parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("10.0.0.1/8", "the network is 10.0.0.0/8"),
        ("[fd00::1/8]:5", "the network is fd00::/8"),
        ("2001:db8::/32:25", r"\[2001:db8::/32\]:25"),
        ("example.com", "no address and no network"),
        ("10.0.0.0/33", "no address and no network"),
        ("10.0.0.0/8:", "neither a port nor a range"),
        ("10.0.0.0/8:http", "neither a port nor a range"),
        ("10.0.0.0/8:+5", "neither a port nor a range"),
        ("10.0.0.0/8:0", "from 1 to 65535"),
        (":65536", "from 1 to 65535"),
        (":9-1", "write 1-9"),
        ("[::1", r"\[network\]:port"),
        ("[::1]22", r"\[network\]:port"),
        ("[]:5", "no address and no network"),
        (":", "neither a port nor a range"),
        ("fe80::1%eth0", "zone"),
    ],
)
def test_mistaken_rules(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EgressRule.parse(text)


@given(st.text(st.sampled_from("0123456789abcdef.:/[]-% "), max_size=30) | st.text(max_size=20))
def test_any_text_is_a_rule_or_a_value_error(text: str) -> None:
    try:
        rule = EgressRule.parse(text)
    except ValueError:
        return
    assert EgressRule.parse(str(rule)) == rule


def test_wide_ipv6_rule_is_not_an_ipv4_rule() -> None:
    policy = EgressPolicy(allow=[EgressRule(IPv6Network("::/0"))])
    assert permits(policy, "fd00::1")
    assert not permits(policy, "::ffff:10.0.0.1")
    assert not permits(policy, "10.0.0.1")
