"""Bulk through real programs: many at once both ways, breaks in the middle, slow readers."""

from __future__ import annotations

import hashlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.destinations import TcpServer, content, reset
from support.programs import PATIENCE, Tunnel, wait_until
from support.transfers import BothWays, digest_of, percentile, pieces

pytestmark = pytest.mark.e2e

MEGABYTE = 1_000_000


@pytest.mark.slow
def test_fifty_streams_both_ways_at_once(tunnel: Tunnel) -> None:
    """Each ends its half by itself, and every byte is compared."""
    sizes = [(i % 7 * 300_000 + i, (i * 3) % 7 * 300_000 + i) for i in range(50)]
    with ThreadPoolExecutor(50) as pool:
        done = [pool.submit(BothWays(up, down).run, tunnel.connect) for up, down in sizes]
        assert max(each.result() for each in done) < 20


@pytest.mark.parametrize("uploads", [True, False], ids=["uploading", "silent"])
@pytest.mark.parametrize("stalled", [True, False], ids=["slow reader", "fast reader"])
def test_a_download_that_breaks_off_never_looks_complete(
    tunnel: Tunnel, uploads: bool, stalled: bool
) -> None:
    """Also where the break is found by who sends an upload: the kernel tells of it once."""

    def serve(connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        connection.recv(1)
        connection.sendall(content(3 * MEGABYTE))
        reset(connection)

    ends = []
    with TcpServer(serve) as server:
        for _ in range(12):
            with tunnel.connect(server.port) as connection:
                connection.settimeout(PATIENCE)
                connection.sendall(b"?")
                over = threading.Event()
                told: list[str] = []

                def upload(
                    connection: socket.socket = connection,
                    over: threading.Event = over,
                    told: list[str] = told,
                ) -> None:
                    try:
                        while not over.is_set():
                            connection.send(bytes(20_000))
                            time.sleep(0.001)
                    except ConnectionResetError:
                        told.append("reset")  # the kernel tells one of the two threads
                    except BrokenPipeError:
                        return  # it has told the other one

                thread = threading.Thread(target=upload, daemon=True)
                if uploads:
                    thread.start()
                if stalled:
                    time.sleep(0.1)
                received = 0
                try:
                    while piece := connection.recv(1 << 18):
                        received += len(piece)
                    told.append("end")
                except ConnectionResetError:
                    told.append("reset")
                over.set()
                if uploads:
                    thread.join(PATIENCE)
                ends.append("reset" if "reset" in told else "end")
    assert ends == ["reset"] * 12


@pytest.mark.parametrize("stalled", [True, False], ids=["slow reader", "fast reader"])
def test_an_upload_that_breaks_off_never_looks_complete(tunnel: Tunnel, stalled: bool) -> None:
    ends: queue.Queue[str] = queue.Queue()

    def serve(connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        connection.sendall(b"?")
        if stalled:
            time.sleep(0.3)
        try:
            while connection.recv(1 << 18):
                pass
            ends.put("end")
        except ConnectionResetError:
            ends.put("reset")

    with TcpServer(serve) as server:
        for _ in range(8):
            connection = tunnel.connect(server.port)
            assert connection.recv(1) == b"?"
            connection.settimeout(0.2)
            try:
                connection.sendall(content(3 * MEGABYTE))
            except TimeoutError:
                pass
            reset(connection)
            assert ends.get(timeout=PATIENCE) == "reset"


def test_a_destination_that_ends_first_still_gets_all_from_beside_a_slow_reader(
    tunnel: Tunnel,
) -> None:
    """The end of the download arrives while its last bytes wait for the reader."""
    size = 6 * MEGABYTE
    got: queue.Queue[bytes] = queue.Queue()

    def serve(connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        connection.sendall(content(size))
        connection.shutdown(socket.SHUT_WR)
        digest = hashlib.sha256()
        while piece := connection.recv(1 << 18):
            digest.update(piece)
        got.put(digest.digest())

    with TcpServer(serve) as server, tunnel.connect(server.port) as connection:
        connection.settimeout(PATIENCE)

        def upload() -> None:
            for piece in pieces(size, 5):
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=upload, daemon=True)
        thread.start()
        time.sleep(0.3)
        received = bytearray()
        while piece := connection.recv(100_000):
            received += piece
            time.sleep(0.002)
        assert received == content(size)
        assert got.get(timeout=PATIENCE) == digest_of(size, 5)
        thread.join(PATIENCE)


@pytest.mark.slow
def test_two_hundred_that_say_little_are_heard_beside_bulk(
    make_tunnel: Callable[..., Tunnel], carrier: str
) -> None:
    """And the bulk moves on beside them."""
    tunnel = make_tunnel(carrier).start()
    over = threading.Event()
    moved = [0, 0]

    def pour(connection: socket.socket) -> None:
        piece = content(MEGABYTE)
        while not over.is_set():
            connection.sendall(piece)

    def drink(place: int) -> None:
        with tunnel.connect(pourer.port) as connection:
            connection.settimeout(PATIENCE)
            while not over.is_set():
                moved[place] += len(connection.recv(1 << 18))

    def echo(connection: socket.socket) -> None:
        while data := connection.recv(100):
            connection.sendall(data)

    waits: list[float] = []
    with TcpServer(pour) as pourer, TcpServer(echo) as echoer:
        drinkers = [threading.Thread(target=drink, args=(i,), daemon=True) for i in range(2)]
        for drinker in drinkers:
            drinker.start()
        talkers = [tunnel.connect(echoer.port) for _ in range(200)]
        wait_until(lambda: min(moved), "both downloads begin")
        before = list(moved)
        until = time.monotonic() + 2
        while time.monotonic() < until:
            for talker in talkers:
                talker.sendall(b"hello")
            began = time.perf_counter()
            for talker in talkers:
                talker.settimeout(PATIENCE)
                assert talker.recv(5)
                waits.append(time.perf_counter() - began)
        over.set()
        for drinker in drinkers:
            drinker.join(PATIENCE)
        for talker in talkers:
            talker.close()
    assert percentile(waits, 0.99) < 3.0
    shares = [now - was for now, was in zip(moved, before, strict=True)]
    assert min(shares) > MEGABYTE and min(shares) > sum(shares) / 10, shares
