"""ML-KEM-768 against an implementation of our own, and what hostile bytes do."""

from __future__ import annotations

import itertools
import os

import pytest
from crypto import independent_kem as foreign
from hypothesis import given, settings
from hypothesis import strategies as st

from phantom.crypto.kem import EncapsulationKey, KeyPair, available
from phantom.errors import RemoteProtocolError

SEED = bytes(range(64))


def test_keys_are_those_of_fips_203():
    public, _ = foreign.key_pair(SEED[:32], SEED[32:])
    assert KeyPair(lambda size: SEED[:size]).public == public


def test_both_decapsulate_what_the_other_encapsulated():
    pair = KeyPair(lambda size: SEED[:size])
    public, private = foreign.key_pair(SEED[:32], SEED[32:])
    secret, ciphertext = foreign.encapsulate(public, bytes(range(32)))
    assert pair.decapsulate(ciphertext) == secret
    secret, ciphertext = EncapsulationKey(public).encapsulate()
    assert (len(secret), len(ciphertext)) == (32, 1088)
    assert foreign.decapsulate(private, ciphertext) == secret


def test_a_false_ciphertext_gives_a_secret_of_nobody():
    pair = KeyPair(os.urandom)
    secret, ciphertext = EncapsulationKey(pair.public).encapsulate()
    false = ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])
    assert pair.decapsulate(false) != secret
    assert pair.decapsulate(bytes(1088)) not in (secret, bytes(32))


def test_exchanges_differ():
    assert available()
    counter = itertools.count()
    made = KeyPair(lambda size: bytes([next(counter)]) * size).public
    assert made != KeyPair(os.urandom).public
    key = EncapsulationKey(made)
    assert key.encapsulate() != key.encapsulate()


@pytest.mark.parametrize("raw", [b"", bytes(1183), bytes(1185), b"\xff" * 1184])
def test_what_is_no_key_is_refused(raw):
    with pytest.raises(RemoteProtocolError):
        EncapsulationKey(raw)


@settings(max_examples=50)
@given(st.binary(min_size=1184, max_size=1184))
def test_random_bytes_raise_nothing_else(raw):
    try:
        EncapsulationKey(raw).encapsulate()
    except RemoteProtocolError:
        pass
