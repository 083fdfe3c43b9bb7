"""The life of one worker: a forked copy of the parent, with a reactor of its own.

`phantom.app.workers` forks it, and tells why by forking.  Everything here runs in the child.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import attrs
from twisted.internet.defer import maybeDeferred
from twisted.internet.main import installReactor
from twisted.internet.protocol import Factory
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.app.descriptors import ENOUGH
from phantom.app.process import prepare_process
from phantom.app.server import ServerService
from phantom.app.shaping import server_shaping
from phantom.app.share import Share
from phantom.carriers.tls_engine import ServerEngines
from phantom.config.schema import ServerFile
from phantom.config.schema_server import ServerConfig
from phantom.runtime import system_runtime
from phantom.telemetry import Meters
from phantom.tunnel.shared_memory import SharedClaims, SharedSecrets
from phantom.tunnel.siblings import Siblings

#: Most characters of a log entry; a traceback is a few thousand.
MAX_TEXT = 16_000
#: Bytes of log entries that wait for a parent that does not read; further ones are dropped.
MAX_UNSENT = 1 << 18
#: Seconds that a worker whose parent is gone takes to close its connections.
ORPHAN_TIME = 2.0


@attrs.frozen(slots=True, kw_only=True)
class Orders:
    """What a worker is to be.

    Attributes:
        incarnation: Names this life of it among its siblings.
        config: The settings.
        reload: Reads them again.
        workers: How many workers there are.
        listeners: The listening sockets.
        certificates: The certificate; None without TLS.
        replay: The descriptor of the replay filter's file.
        claims: The descriptor of the table of claims.
        secrets: The descriptor of what post-quantum exchanges left.
        instance: Names the running server to clients.
        folder: Where the workers' sockets are.
    """

    incarnation: int
    config: ServerConfig
    reload: Callable[[], ServerFile]
    workers: int
    listeners: tuple[socket.socket, ...]
    certificates: ServerEngines | None
    replay: int
    claims: int
    secrets: int
    instance: bytes
    folder: Path

    def descriptors(self) -> set[int]:
        """Return the descriptors that must stay open."""
        sockets = {listener.fileno() for listener in self.listeners}
        return (
            sockets | {self.claims, self.secrets} | ({self.replay} if self.replay >= 0 else set())
        )


@implementer(ILogObserver)
class Channel:
    """Tells the parent what happens; never waits for it.

    Args:
        connection: The worker's end of the pair.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._unsent = b""
        self._dropped = 0

    def send(self, **message: Any) -> None:
        """Send a message, as a length (4, big endian) and JSON."""
        self._flush()
        # Never a sign of life, which is asked for: who logs more than the parent can write lives.
        if len(self._unsent) > MAX_UNSENT and "alive" not in message:
            self._dropped += 1
            return
        if self._dropped:
            message["dropped"], self._dropped = self._dropped, 0
        raw = json.dumps(message).encode()
        self._unsent += len(raw).to_bytes(4, "big") + raw
        self._flush()

    def finish(self) -> None:
        """Send what is left, if the parent takes it."""
        self._connection.setblocking(True)
        self._connection.settimeout(ORPHAN_TIME)
        self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(OSError):  # full, or there is no parent any more
            while self._unsent:
                self._unsent = self._unsent[self._connection.send(self._unsent) :]

    def __call__(self, event: LogEvent) -> None:
        """Pass a log entry on."""
        text = formatEvent(event)
        failure = event.get("log_failure")
        if isinstance(failure, Failure):
            text = f"{text}\n{failure.getTraceback()}"
        if text:
            level = getattr(event.get("log_level"), "name", "info")
            self.send(level=level, text=text[:MAX_TEXT])


def run_worker(parent: Any, orders: Orders, connection: socket.socket) -> NoReturn:
    """Live as a worker and end the process.

    Args:
        parent: The parent's reactor, whose kind the worker's is.
        orders: What to be.
        connection: To the parent.
    """
    status = 1
    try:
        channel = Channel(connection)
        _leave_parent(channel, orders.descriptors() | {connection.fileno()})
        try:
            _Worker(_new_reactor(parent), orders, channel, connection).run()
            status = 0
        except BaseException:  # whatever it is, the parent's code must not run here
            channel.send(level="critical", text=Failure().getTraceback()[:MAX_TEXT])
        channel.finish()
    finally:
        os._exit(status)


def _leave_parent(channel: Channel, keep: Iterable[int]) -> None:
    """Let go of what is the parent's: its signals, its log, its descriptors."""
    signal.set_wakeup_fd(-1)
    # Ctrl-C reaches the whole group of processes; the parent says what is to be done.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Before descriptors are closed: a log file that nobody refers to closes its own.
    for observer in list(globalLogPublisher._observers):
        globalLogPublisher.removeObserver(observer)
    globalLogPublisher.addObserver(channel)
    # What is garbage goes now; what is not stays for good, so that no object of the parent's
    # closes a descriptor whose number means something else by then.
    gc.collect()
    gc.freeze()
    low = 3  # behind the standard ones
    for descriptor in (*sorted(keep), ENOUGH):
        os.closerange(low, descriptor)
        low = descriptor + 1


def _new_reactor(parent: Any) -> Any:
    """Make and install a reactor of the kind the parent has.

    The parent's cannot be used: its epoll descriptor would be shared.
    """
    kind = type(parent)
    del sys.modules["twisted.internet.reactor"]
    if hasattr(parent, "_asyncioEventloop"):
        import asyncio

        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        reactor = kind(loop)
    else:
        reactor = kind()
    installReactor(reactor)
    return reactor


class _Commands(LineReceiver):
    """Takes the parent's words; its end is one too."""

    delimiter = b"\n"

    def __init__(self, worker: _Worker) -> None:
        self._worker = worker

    def lineReceived(self, line: bytes) -> None:  # noqa: N802  (Twisted's interface)
        words = {
            b"reload": self._worker.reload,
            b"stop": self._worker.stop,
            b"hurry": self._worker.hurry,
            b"answer": self._worker.answer,
        }
        words[line]()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._worker.orphaned()


class _Worker:
    def __init__(
        self, reactor: Any, orders: Orders, channel: Channel, connection: socket.socket
    ) -> None:
        prepare_process(reactor)
        self._reactor = reactor
        self._orders = orders
        self._channel = channel
        self._runtime = system_runtime(reactor)
        self._stopping = False
        signal.signal(signal.SIGTERM, self._terminated)
        config = orders.config
        siblings = Siblings(
            self._runtime,
            SharedClaims(orders.claims, orders.incarnation),
            orders.folder,
            config.keepalive,
            Meters(),
            server_shaping(config),
        )
        share = Share(
            workers=orders.workers,
            listeners=orders.listeners,
            certificates=orders.certificates,
            replay=orders.replay,
            secrets=SharedSecrets(orders.secrets),
            instance=orders.instance,
            siblings=siblings,
        )
        self._service = ServerService(self._runtime, config, orders.reload, share)
        commands: Factory = Factory.forProtocol(lambda: _Commands(self))
        commands.noisy = False
        reactor.adoptStreamConnection(connection.fileno(), socket.AF_UNIX, commands)

    def run(self) -> None:
        """Serve until told to stop."""
        self._reactor.callWhenRunning(self._begin)
        self._reactor.run(installSignalHandlers=False)

    def _begin(self) -> None:
        try:
            self._service.startService()
        except Exception:
            self._channel.send(level="critical", text=Failure().getTraceback()[:MAX_TEXT])
            self._channel.finish()
            os._exit(1)
        self._channel.send(ready=True)

    def reload(self) -> None:
        self._service.reload()

    def stop(self) -> None:
        """Stop in good order; asking twice is harmless."""
        if not self._stopping:
            self._stopping = True
            maybeDeferred(self._service.stopService).addBoth(self._stopped)

    def _stopped(self, result: object) -> None:
        if isinstance(result, Failure):
            self._channel.send(level="error", text=result.getTraceback()[:MAX_TEXT])
        if self._reactor.running:
            self._reactor.stop()

    def hurry(self) -> None:
        self._service.hurry()

    def answer(self) -> None:
        """Tell the parent that the reactor turns."""
        self._channel.send(alive=True)

    def orphaned(self) -> None:
        """End soon: nobody would start this process again, or stop it."""
        self.stop()
        self.hurry()
        self._runtime.call_later(ORPHAN_TIME, self._stopped, None)
        # The last to leave removes the folder; for the others it is not empty.
        self._reactor.addSystemEventTrigger("after", "shutdown", self._remove_folder)

    def _remove_folder(self) -> None:
        with contextlib.suppress(OSError):
            (self._orders.folder / str(self._orders.incarnation)).unlink()
        with contextlib.suppress(OSError):
            self._orders.folder.rmdir()

    def _terminated(self, _signal: int, _frame: Any) -> None:
        # A handler runs between any two instructions: it only schedules.
        self._reactor.callFromThread(self.stop)
