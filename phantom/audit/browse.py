"""Loads a page as a browser does, through a SOCKS5 proxy: several connections, many resources.

Sizes follow what pages are made of (HTTP Archive, 2024: some 70 requests and 2.6 MB for the
median page; here about half of it, so that many pages can be loaded in little time).
"""

from __future__ import annotations

import random
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

from phantom.audit.prober import client_context
from phantom.audit.site import NAMES, TITLE

#: Connections to one name, as browsers limit them over HTTP/1.1.
_PER_NAME = 3
#: Seconds for any step.
_PATIENCE = 20.0
#: Bytes of the page, and of what it refers to: logarithms of median and spread.
_PAGE = (10.6, 0.6)  # 40 KB
_RESOURCE = (9.4, 1.3)  # 12 KB, one in twenty above 100 KB
_LARGEST = 600_000


def inner_hello() -> Any:
    """Return what makes TLS of a connection: Chrome's hello where `utls` is installed."""
    try:
        utls = import_module("utls")
    except ImportError:
        return client_context(("http/1.1",))
    context = utls.SSLContext(utls.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = utls.CERT_NONE
    context.set_fingerprint(utls.Fingerprint.from_dict(utls.get_preset("chrome:stable").to_dict()))
    return context


def _connect(proxy: int, port: int) -> socket.socket:
    """Reach 127.0.0.1:`port` through the SOCKS5 proxy (RFC 1928).

    Raises:
        OSError: The proxy refuses.
    """
    connection = socket.create_connection(("127.0.0.1", proxy), timeout=_PATIENCE)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"\x05\x01\x00")
        request = b"\x05\x01\x00\x01" + socket.inet_aton("127.0.0.1") + port.to_bytes(2, "big")
        if _exactly(connection, 2) != b"\x05\x00":
            raise OSError("the proxy wants a password")
        connection.sendall(request)
        if _exactly(connection, 10)[1] != 0:
            raise OSError("the proxy refuses the connection")
    except BaseException:
        connection.close()
        raise
    return connection


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        received = connection.recv(size - len(data))
        if not received:
            raise OSError("the connection ended early")
        data += received
    return data


def _fetch(connection: Any, name: str, size: int, chance: random.Random) -> None:
    """Ask for `size` bytes and read them."""
    cookie = chance.randbytes(chance.randint(30, 350)).hex()
    request = (
        f"GET /{size}?{chance.getrandbits(64):x} HTTP/1.1\r\nHost: {name}\r\n"
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/156.0.0.0 Safari/537.36\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate, br\r\n"
        f"Accept-Language: en-US,en;q=0.9\r\nCookie: id={cookie}\r\n\r\n"
    )
    connection.sendall(request.encode())
    data = b""
    while b"\r\n\r\n" not in data:
        received = connection.recv(65536)
        if not received:
            raise OSError("the site ended the connection early")
        data += received
    left = size - len(data.partition(b"\r\n\r\n")[2])
    while left > 0:
        received = connection.recv(65536)
        if not received:
            raise OSError("the site ended the connection early")
        left -= len(received)


def _batch(proxy: int, port: int, hello: Any, name: str, sizes: Sequence[int], seed: int) -> int:
    """Fetch some resources one after the other over one connection; return their bytes."""
    chance = random.Random(seed)
    with _connect(proxy, port) as raw, hello.wrap_socket(raw, server_hostname=name) as connection:
        for size in sizes:
            _fetch(connection, name, size, chance)
    return sum(sizes)


def load_page(proxy: int, port: int, hello: Any, chance: random.Random) -> int:
    """Load a page and what it refers to; return the bytes of all of it.

    Args:
        proxy: The SOCKS5 proxy's port.
        port: The site's.
        hello: See `inner_hello`.
        chance: Decides what the page is made of.

    Raises:
        OSError: Something did not arrive.
    """
    names = list(NAMES)
    total = _batch(proxy, port, hello, names[0], [_size(chance, _PAGE)], chance.getrandbits(64))
    jobs = []
    for name in chance.sample(names, chance.randint(1, len(names))):
        sizes = [_size(chance, _RESOURCE) for _ in range(chance.randint(2, 18))]
        lanes = min(_PER_NAME, len(sizes))
        jobs += [(name, sizes[lane::lanes], chance.getrandbits(64)) for lane in range(lanes)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        return total + sum(pool.map(lambda job: _batch(proxy, port, hello, *job), jobs))


def _size(chance: random.Random, distribution: tuple[float, float]) -> int:
    return min(_LARGEST, max(200, int(chance.lognormvariate(*distribution))))


def browser_page(port: int, chance: random.Random) -> str:
    """Return the address of a page for a real browser: images from some of the site's names."""
    first, *others = NAMES
    names = [first, *chance.sample(others, chance.randint(0, len(others)))]
    images = [
        f"{chance.choice(names)}/{_size(chance, _RESOURCE)}" for _ in range(chance.randint(10, 50))
    ]
    return f"https://{first}:{port}/page?{','.join(images)}"


def load_in_fresh_browser(
    browser: str, proxy: int | None, port: int, chance: random.Random
) -> None:
    """Let a browser that has loaded nothing before load a page of the site's.

    Args:
        browser: As for `load_in_browser`.
        proxy: Likewise.
        port: The site's.
        chance: Decides what the page is made of.

    Raises:
        OSError: As `load_in_browser`.
    """
    with tempfile.TemporaryDirectory(
        prefix="phantom-audit-browser-", ignore_cleanup_errors=True
    ) as profile:
        load_in_browser(browser, profile, proxy, browser_page(port, chance))


def load_in_browser(browser: str, folder: str, proxy: int | None, address: str) -> None:
    """Let a Chromium without a window load a page, and all it refers to, through the proxy.

    What the browser asks its maker's servers for goes by the proxy too, as everything does.

    Args:
        browser: The program.
        folder: For its profile.
        proxy: The SOCKS5 proxy's port; None for a visit to the site itself, where no other name
            is known.
        address: Of the page.

    Raises:
        OSError: It cannot be started, or did not come to an end.
    """
    way = (
        [f"--host-resolver-rules={','.join(f'MAP {n} 127.0.0.1' for n in NAMES)},MAP * ~NOTFOUND"]
        if proxy is None
        else [f"--proxy-server=socks5://127.0.0.1:{proxy}", "--proxy-bypass-list=<-loopback>"]
    )
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--ignore-certificate-errors",
        f"--user-data-dir={folder}",
        *way,
        "--dump-dom",
        address,
    ]
    try:
        # The program is what the user chose, and the address ours.
        done = subprocess.run(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=2 * _PATIENCE,
            check=True,
        )
    except subprocess.SubprocessError as error:
        raise OSError(f"the browser did not load the page ({type(error).__name__})") from None
    # It prints what the page has become once everything is loaded, or its own error page.
    if TITLE.encode() not in done.stdout:
        raise OSError("the browser shows another page than the site's")
