"""A server of several processes: the parent, which only supervises.

The parent binds the ports, reads the files, and forks the workers, which all accept from the
same listening sockets.  It passes on what the operator wants, writes what the workers log, starts
one again that has ended, and ends one that hangs.  doc/adr/0016 says why it forks.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from phantom.app.listening import address_text
from phantom.app.server import ServerService, certificates, listeners, replay_file
from phantom.app.share import Share
from phantom.app.stopping import hurry_at_second_signal
from phantom.app.watchdog import LOOK, MISSES, Watchdog
from phantom.app.worker import Orders, run_worker
from phantom.app.workers_folder import make_folder
from phantom.config.schema import ServerFile
from phantom.config.schema_server import ServerConfig
from phantom.core.backoff import backoff
from phantom.core.handshake import INSTANCE_SIZE
from phantom.errors import ConfigurationError
from phantom.runtime import Runtime
from phantom.telemetry import Meters, make_logger
from phantom.tunnel.shared_memory import SharedClaims, SharedSecrets, make_claims, make_secrets
from phantom.tunnel.siblings import Siblings

log = make_logger()

#: Seconds a worker must live for an end to count as the first in a row.
SETTLED = 60.0
#: Seconds beyond the drain that stopping workers may take before they are killed.
STOP_GRACE = 10.0
#: Seconds between looks whether a process that closed its end is gone, and how often to look
#: before it is killed.
REAP_INTERVAL = 0.02
REAP_LOOKS = 100
#: Most bytes of one message of a worker: `phantom.app.worker.MAX_TEXT` characters in JSON, at up
#: to 12 bytes each.
MAX_MESSAGE = 1 << 18

_LEVELS = frozenset(("trace", "debug", "info", "warn", "error", "critical"))


@attrs.define(slots=True, eq=False)
class _Worker:
    """One place for a worker, and the process that has it.

    Attributes:
        number: From 1.
        pid: The process; 0 for none.
        incarnation: Of the process.
        since: When it was forked.
        failures: Ends in a row without having lived long.
        end: Its connection.
        ready: Whether it accepts links.
        hung: Whether it was killed because it did not answer.
    """

    number: int
    pid: int = 0
    incarnation: int = 0
    since: float = 0.0
    failures: int = 0
    end: _WorkerEnd | None = None
    ready: bool = False
    hung: bool = False


class _WorkerEnd(Int32StringReceiver):
    """The parent's end of the connection to one worker."""

    MAX_LENGTH = MAX_MESSAGE

    def __init__(self, service: WorkersService, worker: _Worker) -> None:
        self._service = service
        self._worker = worker

    def say(self, word: str) -> None:
        """Tell the worker to do something."""
        self.transport.write(word.encode() + b"\n")  # type: ignore[union-attr]

    def stringReceived(self, string: bytes) -> None:  # noqa: N802  (Twisted's interface)
        self._service.told(self._worker, json.loads(string))

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._service.worker_left(self._worker, self._worker.pid)


class WorkersService(Service):
    """Supervises the workers of a server.  Its ports are bound when it is made.

    Args:
        runtime: The outside world.
        config: The settings, with two workers at least.
        reload: Reads the file again.

    Attributes:
        addresses: Where it listens.

    Raises:
        ConfigurationError: A port cannot be bound, or a file not be used.
    """

    def __init__(
        self, runtime: Runtime, config: ServerConfig, reload: Callable[[], ServerFile]
    ) -> None:
        self._runtime = runtime
        self._config = config
        self._reload = reload
        self._certificates = certificates(config)
        self._replay = replay_file(runtime, config)
        self._claims_file = make_claims()
        self._secrets_file = make_secrets()
        self._claims = SharedClaims(self._claims_file, 0)
        self._instance = runtime.entropy(INSTANCE_SIZE)
        self._listeners = listeners(config)
        self.addresses: list[tuple[Any, ...]] = [x.getsockname() for x in self._listeners]
        self._workers = [_Worker(number + 1) for number in range(config.workers)]
        self._incarnations = 0
        # Where the workers' sockets are; none before the start.
        self._folder: Path | None = None
        self._told = False
        self._stopping = False
        self._stopped: list[Deferred[None]] = []
        self._timers: set[IDelayedCall] = set()
        self._watchdog = Watchdog(runtime, self._ask_all, self._replace_hung)
        self._rehearse()

    def _rehearse(self) -> None:
        """Make what a worker makes, and let go of it.

        What would fail there fails here, as one line of the user's; and what Python imports
        late it imports now, before privileges or the file system are given up.
        """
        replay = os.dup(self._replay.descriptor) if self._replay.persistent else -1
        siblings = Siblings(self._runtime, self._claims, Path(), 0.0, Meters())
        share = Share(
            workers=len(self._workers),
            listeners=self._listeners,
            certificates=self._certificates,
            replay=replay,
            secrets=SharedSecrets(self._secrets_file),
            instance=self._instance,
            siblings=siblings,
        )
        ServerService(self._runtime, self._config, self._reload, share).discard()

    # -- starting -------------------------------------------------------------------------

    def startService(self) -> None:
        """Start the workers once the reactor runs, and reload on SIGHUP."""
        super().startService()
        if not self._config.allowed_clients:
            log.warn("allowed_clients is empty: nobody can connect")
        # Only now: twistd has given the privileges up, and the workers will enter it.
        self._folder = make_folder(self._config.state_dir)
        signal.signal(signal.SIGHUP, self._hangup)
        self._runtime.reactor.callWhenRunning(self._start_all)

    def _start_all(self) -> None:
        for worker in self._workers:
            self._start(worker)
        if not self._stopping:
            self._watchdog.start()

    def _start(self, worker: _Worker) -> None:
        if self._stopping:
            return
        folder = self._folder
        assert folder is not None  # the service was started
        self._incarnations += 1
        worker.incarnation = self._incarnations
        worker.since = self._runtime.clock.seconds()
        worker.ready = worker.hung = False
        orders = Orders(
            incarnation=worker.incarnation,
            config=self._config,
            reload=self._reload,
            workers=len(self._workers),
            listeners=self._listeners,
            certificates=self._certificates,
            replay=self._replay.descriptor,
            claims=self._claims_file,
            secrets=self._secrets_file,
            instance=self._instance,
            folder=folder,
        )
        try:
            ours, pid = _fork(lambda theirs: run_worker(self._runtime.reactor, orders, theirs))
        except OSError as error:
            self._not_started(worker, error)
            return
        worker.pid = pid
        ours.setblocking(False)
        end = worker.end = _WorkerEnd(self, worker)
        factory: Factory = Factory.forProtocol(lambda: end)
        factory.noisy = False
        try:
            self._runtime.reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, factory)
        except OSError:  # out of descriptors: the worker ends when it finds itself alone
            self.worker_left(worker, pid)
        finally:
            ours.close()  # the reactor has its own duplicate

    def _not_started(self, worker: _Worker, error: OSError) -> None:
        """Try again in a while: memory, processes or descriptors were short."""
        worker.failures += 1
        delay = backoff(worker.failures, self._runtime.uniform(0.0, 1.0))
        log.error(
            "worker {number} cannot be started: {why}; trying again in {delay:.1f} s",
            number=worker.number,
            why=error.strerror or "an operation failed",
            delay=delay,
        )
        self._later(delay, self._start, worker)

    # -- what workers say -------------------------------------------------------------------

    def told(self, worker: _Worker, message: dict[str, Any]) -> None:
        """Take a worker's message: a log entry, an answer, or that it is ready."""
        if message.get("dropped"):
            log.warn(
                "worker {number}: {count} log entries were lost",
                number=worker.number,
                count=message["dropped"],
            )
        if message.get("ready"):
            self._ready(worker)
        elif message.get("alive"):
            self._watchdog.answered(worker.incarnation)
        elif message.get("level") in _LEVELS:
            write = getattr(log, message["level"])
            write("worker {number}: {text}", number=worker.number, text=message.get("text"))

    def _ready(self, worker: _Worker) -> None:
        worker.ready = True
        log.debug("worker {number} is process {pid}", number=worker.number, pid=worker.pid)
        if not self._told and all(each.ready for each in self._workers):
            self._told = True
            log.info(
                "listening on {addresses} for {count} clients, with {workers} workers",
                addresses=", ".join(address_text(a) for a in self.addresses),
                count=len(self._config.allowed_clients),
                workers=len(self._workers),
            )

    # -- whether they live ------------------------------------------------------------------

    def _ask_all(self) -> list[int]:
        asked = [worker for worker in self._workers if worker.end is not None and not worker.hung]
        for worker in asked:
            assert worker.end is not None
            worker.end.say("answer")
        return [worker.incarnation for worker in asked]

    def _replace_hung(self, incarnation: int) -> None:
        """Kill a worker that does not answer; its end has another one started.

        It is not asked to end first: it would hear that where it hears questions.
        """
        for worker in self._workers:
            if worker.incarnation == incarnation and worker.end is not None:
                worker.hung = True
                log.error(
                    "worker {number} has not answered for {seconds:.0f} s and is replaced",
                    number=worker.number,
                    seconds=MISSES * LOOK,
                )
                os.kill(worker.pid, signal.SIGKILL)

    # -- their end --------------------------------------------------------------------------

    def worker_left(self, worker: _Worker, pid: int, looks: int = 0) -> None:
        """Wait for the end of a process that has closed its connection, or is about to end.

        Asking the kernel now and then needs no signal handler; a child that only closed its
        connection is made to end.
        """
        worker.end = None
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            self._worker_ended(worker, os.waitstatus_to_exitcode(status))
            return
        if looks == REAP_LOOKS:
            os.kill(pid, signal.SIGKILL)
        self._later(REAP_INTERVAL, self.worker_left, worker, pid, looks + 1)

    def _worker_ended(self, worker: _Worker, code: int) -> None:
        worker.pid = 0
        worker.ready = False
        lost = self._claims.bury(worker.incarnation)
        if self._folder is not None:
            with contextlib.suppress(OSError):
                (self._folder / str(worker.incarnation)).unlink()
        if self._stopping:
            self._check_stopped()
            return
        if self._runtime.clock.seconds() - worker.since >= SETTLED:
            worker.failures = 0
        worker.failures += 1
        delay = backoff(worker.failures, self._runtime.uniform(0.0, 1.0)) if code else 0.0
        how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        tell = log.error if code else log.info
        tell(
            "worker {number} {how}, and {lost} sessions with it; another starts in {delay:.1f} s",
            number=worker.number,
            how=how,
            lost=lost,
            delay=delay,
        )
        self._later(delay, self._start, worker)

    def _later(self, delay: float, call: Callable[..., object], *args: Any) -> None:
        self._timers = {timer for timer in self._timers if timer.active()}
        self._timers.add(self._runtime.call_later(delay, call, *args))

    # -- operation --------------------------------------------------------------------------

    def _hangup(self, _signal: int, _frame: Any) -> None:
        # A handler runs between any two instructions: it only schedules.
        self._runtime.reactor.callFromThread(self.reload)

    def reload(self) -> None:
        """Check the file, and have every worker read it.

        A worker that is started later gets what is in force: the settings of the last reload
        that was right, and the certificate likewise.
        """
        try:
            config = self._reload().server
        except ConfigurationError as error:
            log.error("not reloaded, everything stays as it was: {error}", error=str(error))
            return
        self._config = attrs.evolve(
            self._config,
            allowed_clients=config.allowed_clients,
            egress=config.egress,
            endpoints=config.endpoints,
            endpoints_version=config.endpoints_version,
            identity_key=config.identity_key,
        )
        if self._certificates is not None:
            # The workers report what is wrong with it, each for itself.
            with contextlib.suppress(ConfigurationError):
                self._certificates.reload()
        self._say("reload")

    def _say(self, word: str) -> None:
        for worker in self._workers:
            if worker.end is not None:
                worker.end.say(word)

    def stopService(self) -> Deferred[None]:
        """Have the workers stop in good order, and wait for their end."""
        super().stopService()
        self._stopping = True
        self._watchdog.stop()
        for timer in self._timers:
            if timer.active() and timer.func == self._start:  # type: ignore[attr-defined]
                timer.cancel()
        for listener in self._listeners:
            listener.close()
        hurry_at_second_signal(self._runtime, lambda: self._say("hurry"))
        self._say("stop")
        self._later(self._config.drain_timeout + STOP_GRACE, self._kill)
        done: Deferred[None] = Deferred()
        self._stopped.append(done)
        self._check_stopped()
        return done

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.pid:
                log.error("worker {number} does not stop", number=worker.number)
                os.kill(worker.pid, signal.SIGKILL)

    def _check_stopped(self) -> None:
        if any(worker.pid for worker in self._workers):
            return
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        self._replay.close()
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        stopped, self._stopped = self._stopped, []
        for done in stopped:
            done.callback(None)


def _fork(live: Callable[[socket.socket], NoReturn]) -> tuple[socket.socket, int]:
    """Fork a child that does `live` with its end of a connection; return ours, and its process.

    Raises:
        OSError: The machine is short of something.
    """
    ours, theirs = socket.socketpair()
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if not pid:
        live(theirs)
    theirs.close()
    return ours, pid
