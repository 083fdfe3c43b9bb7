"""The addresses of this machine, as the kernel tells them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from phantom.outbound.own_addresses import own_addresses


def test_own_addresses_from_the_kernels_tables(tmp_path: Path) -> None:
    (tmp_path / "fib_trie").write_text(
        "Local:\n  +-- 0.0.0.0/0 3 0 5\n     +-- 203.0.113.0/24 2 0 2\n"
        "        |-- 203.0.113.0\n           /24 link UNICAST\n"
        "        |-- 203.0.113.9\n           /32 host LOCAL\n"
        "        |-- 203.0.113.255\n           /32 link BROADCAST\n"
    )
    (tmp_path / "if_inet6").write_text(
        "20010db8000000000000000000000001 02 40 00 80     eth0\nnonsense\n"
    )
    found = own_addresses(tmp_path)
    assert IPv4Address("203.0.113.9") in found
    assert IPv6Address("2001:db8::1") in found
    assert IPv4Address("203.0.113.255") not in found


def test_own_addresses_without_proc(tmp_path: Path) -> None:
    assert own_addresses(tmp_path / "absent") <= own_addresses() | {IPv4Address("127.0.0.1")}


def test_loopback_is_an_own_address() -> None:
    assert IPv4Address("127.0.0.1") in own_addresses()
