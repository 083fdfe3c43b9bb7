"""The audit of a live pair: what ``phantom audit`` runs when it is given no capture."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Collection
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from phantom.address import Destination
from phantom.app.audit_pair import CERTIFICATE, KEY, Pair, for_front, fresh_pair
from phantom.app.demo import NAME
from phantom.audit import browse, knock, prober, report
from phantom.audit.capture import Watch, sees_segments, watch
from phantom.audit.detectors import post_handshake, probing
from phantom.audit.flows import Flow
from phantom.audit.nginx import Front, Nginx, find_nginx
from phantom.audit.site import DELAY, Site
from phantom.audit.verdict import Verdict
from phantom.config.schema_client import ClientConfig
from phantom.config.schema_server import ServerConfig
from phantom.runtime import Runtime

T = TypeVar("T")

#: Seconds between keepalives while they are watched, in place of the configured ones, which
#: would take minutes; jitter is relative.
IDLE_INTERVAL = 0.3
#: Seconds that the idle link is watched: some 30 gaps.  Of 15 one run in 500 looks regular by
#: chance (simulated with the jitter of `phantom.tunnel.frame`), of 30 none of 4,000.
_IDLE = 14.0
#: Pages that one client loads while its connections are counted.
_POLICY_PAGES = 3
#: Whole handshakes inside TLS; each shows one more hello.
_TLS_LINKS = 24

_LOOPBACK = IPv4Address("127.0.0.1")

_PASSIVE = frozenset(report.DETECTORS) - {"post-handshake", "probes", "replays"}
_VISITS = _PASSIVE - {"uniformity", "connections", "keepalive", "client-hello"}
_MANY_LINKS = {"first-packet", "entropy", "first-length", "uniformity", "client-hello"}
_OPENINGS = _MANY_LINKS | {"probes", "replays"}


@attrs.frozen(slots=True, kw_only=True)
class AuditSettings:
    """How much is done.

    Attributes:
        detectors: Names out of `phantom.audit.report.DETECTORS`.
        links: Whole handshakes on bare TCP.
        pages: Pages loaded, each by a client of its own.
        patience: Seconds of silence after which a probed connection counts as open.
        browser: A Chromium to load them with; None for our own loads.
        decoy_port: A web server on 127.0.0.1 to compare probes with; None for our own nginx.
    """

    detectors: Collection[str] = report.DETECTORS
    links: int = 1000
    pages: int = 24
    patience: float = 1.0
    browser: str | None = None
    decoy_port: int | None = None


class LiveAudit:
    """Starts a pair, browses through it, knocks at it, and judges what was seen.

    Args:
        runtime: The outside world.
        settings: How much is done.
        pair: The settings of a server and a client; a fresh pair when None.
        tls: Whether the fresh pair uses TLS.
        front: Whether an nginx before the fresh server ends TLS, as the settings of a server
            that only listens to fronts say by themselves.
        say: Told what is being done, and how far it is: a text, done, in all.

    Attributes:
        capture: How connections were captured, in words.
    """

    def __init__(
        self,
        runtime: Runtime,
        settings: AuditSettings,
        *,
        pair: tuple[ServerConfig, ClientConfig] | None,
        tls: bool,
        front: bool = False,
        say: Callable[[str, int, int], object],
    ) -> None:
        self._runtime = runtime
        self._settings = settings
        self._given = pair
        if pair is not None:
            front = pair[0].has_front and not pair[0].listen
            tls = pair[0].tls_cert is not None
        self._front = front
        self._tls = tls or front
        self._say = say
        self._chance = random.Random(runtime.entropy(16))
        self.capture = ""
        self._closing: list[Callable[[], object]] = []

    async def run(self) -> list[Verdict]:
        """Return the verdicts, in the order of `phantom.audit.report.DETECTORS`.

        Raises:
            PhantomError: The pair does not work.
            OSError: A page did not load, or something could not be started.
        """
        with tempfile.TemporaryDirectory(prefix="phantom-audit-") as folder:
            # nginx, having been started by root, reads as nobody.
            Path(folder).chmod(0o755)
            try:
                return await self._run(Path(folder))
            finally:
                for close in reversed(self._closing):
                    await self._in_thread(close)

    def _in_thread(self, call: Callable[..., T], *args: Any) -> Deferred[T]:
        reactor = self._runtime.reactor
        deferred: Deferred[T] = deferToThreadPool(reactor, reactor.getThreadPool(), call, *args)
        return deferred

    async def _run(self, folder: Path) -> list[Verdict]:
        self._say("starting", 0, 1)
        wanted = set(self._settings.detectors)
        site = await self._in_thread(Site, folder, DELAY)
        self._closing.append(site.stop)
        program = find_nginx()
        server, client = self._given or fresh_pair(
            self._runtime, folder, tls=self._tls and not self._front
        )
        if self._front:
            server, client = for_front(self._runtime, folder, (server, client))
        nginx = await self._start_nginx(folder, server, program)
        decoy = None
        if nginx is not None and self._given is None:
            decoy = Destination(_LOOPBACK, nginx.plain), Destination(_LOOPBACK, nginx.h2c)
        make = partial(Pair, self._runtime, front=self._front)
        pair = make(folder / "a", server, client, site.port, decoy=decoy)
        idle = make(folder / "b", server, client, site.port, keepalive=IDLE_INTERVAL)
        pair.start()
        idle.start()
        if self._front:
            await self._start_front(folder, [pair, idle], program)
        # It waits most of the time, so it costs nothing beside the rest.
        watching = Deferred.fromCoroutine(self._watch_idle(idle, wanted))
        try:
            active = await self._busy(pair, site, nginx, client, wanted)
            passive = await watching
        finally:
            watching.addErrback(lambda _: None)  # told already, or of no interest any more
            watching.cancel()
            await watching
            await pair.stop()
            await idle.stop()
        verdicts = {**active, **passive}
        return [verdicts[name] for name in report.DETECTORS if name in verdicts]

    async def _start_front(self, folder: Path, pairs: list[Pair], program: str | None) -> None:
        """Put an nginx that ends TLS before each server."""
        work = folder / "front"
        work.mkdir()
        behind = [pair.sockets for pair in pairs]

        def start() -> Front:
            if program is None:
                raise OSError("there is no nginx here to end TLS before the server")
            return Front(program, work, folder / CERTIFICATE, folder / KEY, behind)

        front = await self._in_thread(start)
        self._closing.append(front.stop)
        for pair, port in zip(pairs, front.ports, strict=True):
            pair.behind(port)

    async def _start_nginx(
        self, folder: Path, server: ServerConfig, program: str | None
    ) -> Nginx | None:
        """Start what the server is to be mistaken for, if there is anything to start."""
        wanted = {"post-handshake", "probes", "replays"} & set(self._settings.detectors)
        if not (wanted and self._tls and program) or self._settings.decoy_port is not None:
            return None
        root = folder / "www"
        if self._given is not None:
            if not isinstance(server.decoy, Path):
                return None
            root = server.decoy
        else:
            root.mkdir()
            root.chmod(0o755)
            (root / "index.html").write_text("<!doctype html><title>site</title><p>Welcome.\n")
        certificate, key = server.tls_cert, server.tls_key
        if certificate is None or key is None:
            certificate, key = folder / CERTIFICATE, folder / KEY
        work = folder / "nginx"
        work.mkdir()
        nginx = await self._in_thread(Nginx, program, work, root, certificate, key)
        self._closing.append(nginx.stop)
        return nginx

    # -- what is watched ------------------------------------------------------------------

    async def _watch_idle(self, pair: Pair, wanted: set[str]) -> dict[str, Verdict]:
        if "keepalive" not in wanted:
            return {}
        seen = watch(pair.port)
        try:
            client = await pair.client(seen.port)
            await deferLater(self._runtime.reactor, _IDLE)
            flows = await self._in_thread(seen.take)
            await client.stopService()
        finally:
            await self._in_thread(seen.stop)
        detectors = report.judge([], idle=flows, idle_interval=IDLE_INTERVAL)
        return {"keepalive": detectors["keepalive"]()}

    async def _busy(
        self,
        pair: Pair,
        site: Site,
        nginx: Nginx | None,
        client: ClientConfig,
        wanted: set[str],
    ) -> dict[str, Verdict]:
        seen = watch(pair.port)
        self.capture = (
            "packets on the loopback interface"
            if sees_segments(seen)
            else "a recording relay (segments are its reads; run as root to capture packets)"
        )
        try:
            links = _TLS_LINKS if self._tls else self._settings.links
            links = links if wanted & _MANY_LINKS else bool(wanted & _OPENINGS)
            openings = await self._open_links(pair, seen, links)
            visits = await self._load_pages(pair, seen, site) if wanted & _VISITS else []
            one = await self._load_by_one(pair, seen, site) if "connections" in wanted else []
        finally:
            await self._in_thread(seen.stop)
        detectors = report.judge(visits, openings=openings, one_client=one)
        verdicts = {}
        for name in _PASSIVE & wanted - {"keepalive"}:
            self._say(f"judging: {name}", 0, 1)
            verdicts[name] = await self._in_thread(detectors[name])
        recorded = next((flow.opening() for flow in reversed(openings) if flow.first()), b"")
        name = client.tls_sni or NAME
        decoy = self._settings.decoy_port
        if nginx is not None:
            h2 = await self._in_thread(prober.agrees_to_h2, pair.port, name)
            decoy = nginx.tls_h2 if h2 else nginx.tls
        verdicts.update(await self._knock(pair, wanted, recorded, name, decoy))
        return verdicts

    async def _open_links(self, pair: Pair, seen: Watch, count: int) -> list[Flow]:
        for done in range(count):
            if not done % 20:
                self._say("opening links", done, count)
            await pair.open_link(seen.port)
        return await self._in_thread(seen.take)

    async def _load_pages(self, pair: Pair, seen: Watch, site: Site) -> list[Flow]:
        hello = browse.inner_hello()
        for done in range(self._settings.pages):
            self._say("loading pages", done, self._settings.pages)
            await self._load(pair, seen, site, hello, 1)
        return await self._in_thread(seen.take)

    async def _load_by_one(self, pair: Pair, seen: Watch, site: Site) -> list[Flow]:
        self._say("loading pages by one client", 0, 1)
        await self._load(pair, seen, site, browse.inner_hello(), _POLICY_PAGES)
        return await self._in_thread(seen.take)

    async def _load(self, pair: Pair, seen: Watch, site: Site, hello: Any, pages: int) -> None:
        client = await pair.client(seen.port)
        assert client.socks5_address is not None
        proxy: int = client.socks5_address[1]
        try:
            for _ in range(pages):
                await self._in_thread(self._load_page, proxy, site.port, hello)
        finally:
            await client.stopService()

    def _load_page(self, proxy: int, port: int, hello: Any) -> None:
        browser = self._settings.browser
        if browser is None:
            browse.load_page(proxy, port, hello, self._chance)
            return
        browse.load_in_fresh_browser(browser, proxy, port, self._chance)

    # -- who knocks -----------------------------------------------------------------------

    async def _knock(
        self, pair: Pair, wanted: set[str], recorded: bytes, name: str, decoy: int | None
    ) -> dict[str, Verdict]:
        verdicts: dict[str, Verdict] = {}
        seed = self._chance.getrandbits(64)
        patience = self._settings.patience
        if "post-handshake" in wanted:
            self._say("comparing handshakes", 0, 1)
            verdicts["post-handshake"] = (
                post_handshake.RULE.skip(_NO_DECOY if self._tls else "bare TCP")
                if decoy is None
                else await self._in_thread(knock.compare_handshakes, pair.port, decoy, name)
            )
        if "probes" in wanted:
            self._say("probing", 0, 1)
            if not self._tls:
                probed = await self._in_thread(knock.probe_silent, pair.port, name, seed, patience)
            elif decoy is None:
                probed = probing.PROBES_RULE.skip(_NO_DECOY)
            else:
                probed = await self._in_thread(
                    knock.probe_web, pair.port, decoy, name, seed, patience, recorded
                )
            verdicts["probes"] = probed
        if "replays" in wanted:
            self._say("replaying", 0, 1)
            verdicts["replays"] = await self._replay(pair, recorded, seed)
        return verdicts

    async def _replay(self, pair: Pair, recorded: bytes, seed: int) -> Verdict:
        if not recorded:
            return probing.REPLAY_RULE.skip("no first flight was recorded")

        async def replay(flight: bytes, identical: bool = False) -> probing.Reactions:
            return await self._in_thread(
                lambda: knock.replay(
                    pair.port, flight, seed, self._settings.patience, identical=identical
                )
            )

        ours = dict(await replay(recorded))
        await pair.restart()
        [(first, again)] = (await replay(recorded, identical=True)).items()
        restarted = f"{first}, after a restart"
        ours[restarted] = again
        if not self._tls:
            return probing.detect_replays(ours, {name: [probing.SILENCE] for name in ours})
        # The same, said by somebody whose hello is new.
        expected = dict(await replay(prober.fresh_hello(recorded, self._chance)))
        expected[restarted] = expected[first]
        return probing.detect_replays(ours, expected)


_NO_DECOY = "no nginx to compare with (name a web server with --decoy-port)"
