"""Cryptography: the Noise handshake, sealed headers and records.  No Twisted, no clock.

Entropy is an argument everywhere, so that golden vectors can fix every byte.
"""
