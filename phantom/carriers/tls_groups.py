"""Which key exchange groups the server's TLS offers: those of the nginx it is to look like.

nginx leaves them to its OpenSSL, and so they tell its age.  Since 3.5 X25519MLKEM768 is the
first choice.  A browser's hello is then answered with it, in a ServerHello of 1210 bytes in
place of 122, and every other client is told of it in EncryptedExtensions.  The OpenSSL inside
Python's ``cryptography`` is a new one, while the nginx of a stable distribution is not.

pyOpenSSL has no call for the list.  So it is set through ``cryptography``'s binding, on the
handle that pyOpenSSL keeps for itself: all of that is here, and where either is not as
expected the library's own choice stays.
"""

from __future__ import annotations

import ctypes
import functools
from importlib import import_module
from typing import Any

from OpenSSL import SSL

from phantom.telemetry import make_logger

log = make_logger()

#: Words in place of a list.
AUTO, LIBRARY = "auto", "library"

#: The groups of OpenSSL 1.1.1, best first (its CHANGES, and the documentation of
#: SSL_CTX_set1_groups).
_CURVES = "X25519:P-256:X448:P-521:P-384"

#: Those of 3.0 to 3.4.  The groups of RFC 7919 are used by no browser, but EncryptedExtensions
#: lists them too: with them, and not without, it has nginx's size for a client that prefers
#: P-256 (measured with 3.0).  GOST's groups, which are in the list as well, are in no build of
#: Debian's.
_OLDER = f"{_CURVES}:ffdhe2048:ffdhe3072:ffdhe4096:ffdhe6144:ffdhe8192"

#: Since 3.5 (its CHANGES); later ones may add to it.
_NEWER = (
    "?*X25519MLKEM768 / ?*X25519:?secp256r1 / ?X448:?secp384r1:?secp521r1 / ?ffdhe2048:?ffdhe3072"
)

#: The first version with `_NEWER`, and the first with `_OLDER`, as (major, minor).
_SINCE_NEWER, _SINCE_OLDER = (3, 5), (3, 0)

#: Names of OpenSSL's library for the dynamic loader.  Who asks for one gets the file that the
#: machine's nginx gets, unless that carries an OpenSSL of its own.
_SYSTEM_LIBRARIES = ("libcrypto.so.3", "libcrypto.so.1.1")


@functools.cache
def system_version() -> tuple[int, int] | None:
    """Return the version of this machine's own OpenSSL, (major, minor); None without one."""
    for name in _SYSTEM_LIBRARIES:
        try:
            ask = ctypes.CDLL(name).OpenSSL_version_num
        except (AttributeError, OSError):
            continue
        ask.restype = ctypes.c_ulong
        number: int = ask()  # 0xMNN00PP0L since 3.0, 0xMNNFFPPSL before
        return number >> 28 & 0xF, number >> 20 & 0xFF
    return None


def groups_for(setting: str) -> str | None:
    """Return the groups that a setting stands for, as OpenSSL's list.

    Args:
        setting: `AUTO` for those of the machine's own OpenSSL, `LIBRARY`, or a list.

    Returns:
        The list; None for what the library chooses by itself.
    """
    if setting == LIBRARY:
        return None
    if setting != AUTO:
        return setting
    version = system_version()
    if version is None or version >= _SINCE_NEWER:
        return _NEWER  # which most nginx will have, where nothing is known
    return _OLDER if version >= _SINCE_OLDER else _CURVES


class _Binding:
    """The private parts that are needed; `AttributeError` or `ImportError` without them."""

    def __init__(self) -> None:
        lib: Any = import_module("cryptography.hazmat.bindings.openssl.binding").Binding().lib
        self._set: Any = lib.SSL_CTX_set1_curves_list
        self._clear_errors: Any = lib.ERR_clear_error

    def set(self, context: SSL.Context, groups: str) -> bool:
        handle: Any = context._context
        done: bool = self._set(handle, groups.encode("ascii")) == 1
        # Left in the thread's queue the error would be taken for a connection's.
        self._clear_errors()
        return done


@functools.cache
def _binding() -> _Binding | None:
    try:
        found = _Binding()
        # Tried once, on a context of nobody's.
        found.set(SSL.Context(SSL.TLS_METHOD), _CURVES)
    except (AttributeError, ImportError, TypeError):
        log.warn(
            "this version of pyOpenSSL or cryptography does not let tls_groups be set; the "
            "library's own choice stays"
        )
        return None
    return found


def set_groups(context: SSL.Context, setting: str) -> None:
    """Let a server's context offer the groups of `setting`, as far as that can be done.

    Args:
        context: Not in use yet.
        setting: See `groups_for`.
    """
    groups = groups_for(setting)
    binding = None if groups is None else _binding()
    if groups is not None and binding is not None and not binding.set(context, groups):
        log.warn("this OpenSSL does not know the groups of tls_groups; its own choice stays")


def unknown_groups(setting: str) -> list[str]:
    """Return the names in a list that OpenSSL does not know; all of them if it is no list."""
    groups = groups_for(setting)
    binding = None if groups is None else _binding()
    if groups is None or binding is None:
        return []
    context = SSL.Context(SSL.TLS_METHOD)
    if binding.set(context, groups):
        return []
    names = groups.split(":")
    return [name for name in names if not name or not binding.set(context, name)] or names
