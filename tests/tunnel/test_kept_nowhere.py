"""Bytes that were delivered are kept nowhere."""

from __future__ import annotations

import gc
import tracemalloc

from support.tunnel import Joined, Recorder


class Discards(Recorder):
    """Counts what it is sent, and keeps nothing."""

    def dataReceived(self, data: bytes) -> None:
        self.pieces[:] = [sum(self.pieces) + len(data)]


def test_what_was_delivered_is_kept_nowhere() -> None:
    joined = Joined(capacity=4 * 1024 * 1024)
    stream, _ = joined.open()
    joined.run()
    taker = stream.protocol = Discards()
    taker.transport = stream
    server = joined.server_protocols[1].transport
    piece = bytes(64 * 1024)

    def download(pieces: int) -> None:
        for _ in range(pieces):
            server.write(piece)
            joined.run(0.0)
        joined.run()

    download(64)  # pools and windows have their size by now
    gc.collect()
    tracemalloc.start()
    try:
        download(256)
        gc.collect()
        kept, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taker.pieces == [320 * len(piece)]
    assert kept < 1024 * 1024, "of 16 MiB"
