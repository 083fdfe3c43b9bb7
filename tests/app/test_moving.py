"""Servers with several endpoints, as services over real sockets: found, announced, moved."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.runtime import fake_runtime
from twisted.internet.task import deferLater

from phantom.app import server as server_module
from phantom.app.client import make_tunnel
from phantom.app.connecting import connector, http_host, known_endpoints, tls_settings
from phantom.app.server import ServerService
from phantom.config.document import parse_document
from phantom.config.identity_keys import IdentityKey
from phantom.config.keys import PrivateKey
from phantom.config.load import load_document
from phantom.config.schema import ClientFile, ServerFile
from phantom.config.schema_client import ClientConfig
from phantom.core.endpoint_list import Carrier, ServerEndpoint
from phantom.crypto.identity import verify
from phantom.runtime import system_runtime
from phantom.telemetry import Meters
from phantom.tunnel.dialer import Dialer

CLIENT = PrivateKey(bytes(range(2, 34)))
IDENTITY = IdentityKey(bytes(range(3, 35)))
HOST, OTHER = PrivateKey(bytes(range(1, 33))), PrivateKey(bytes(range(4, 36)))
PIN = bytes(range(32))


def client_config(folder: Path, *servers: str, more: str = "") -> ClientConfig:
    text = (
        f"[client]\nserver = {list(servers)}\n"
        f'server_public_key = "{HOST.public()}"\nprivate_key = "{CLIENT.export()}"\n'
        f'state_dir = "state"\n{more}\n'
    )
    return load_document(parse_document(text, "c", folder), ClientFile).client


class Server:
    """A server's service, and the file it reloads."""

    def __init__(self, reactor: Any, folder: Path, key: PrivateKey, more: str = "") -> None:
        self._folder, self._key = folder, key
        self.more = more
        self.service = ServerService(system_runtime(reactor), self.read().server, self.read)
        # The handlers of signals are the process's own.
        self.service._reload = None
        self.service.startService()
        self.service._reload = self.read
        self.address = f"127.0.0.1:{self.service.addresses[0][1]}"

    def read(self) -> ServerFile:
        text = (
            f'[server]\nlisten = "127.0.0.1:0"\nprivate_key = "{self._key.export()}"\n'
            f'allowed_clients = ["{CLIENT.public()}"]\n'
            f'state_dir = "state-{self._key.public().raw[0]}"'
            f"\ndrain_timeout = 0\n{self.more}\n"
        )
        return load_document(parse_document(text, "s", self._folder), ServerFile)

    async def stop(self) -> None:
        self.service._reload = None
        await self.service.stopService()


def announcing(*entries: str, version: int = 1) -> str:
    return (
        f'identity_key = "{IDENTITY.export()}"\nendpoints_version = {version}\n'
        f"endpoints = [{', '.join(entries)}]"
    )


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    told: list[str] = []
    monkeypatch.setattr(
        server_module.log, "error", lambda text, **fields: told.append(text.format(**fields))
    )
    yield told


async def until(reactor: Any, condition: Callable[[], Any]) -> None:
    for _ in range(500):
        if condition():
            return
        await deferLater(reactor, 0.01)
    raise AssertionError("it never happened")


def tunnel(reactor: Any, config: ClientConfig) -> Dialer:
    dialer, _outbound = make_tunnel(system_runtime(reactor), config, Meters())
    dialer.start()
    return dialer


async def test_a_client_finds_the_port_that_works(reactor: Any, tmp_path: Path) -> None:
    server = Server(reactor, tmp_path, HOST)
    dialer = tunnel(reactor, client_config(tmp_path, "127.0.0.1:1", server.address))
    await until(reactor, lambda: dialer.mux is not None)
    await dialer.stop()
    await server.stop()
    (path,) = (tmp_path / "state").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_client_learns_where_its_server_went(reactor: Any, tmp_path: Path) -> None:
    config_of = f'server_identity = "{IDENTITY.public()}"'
    old, new = Server(reactor, tmp_path, HOST), Server(reactor, tmp_path, OTHER)
    first_address = old.address
    config = client_config(tmp_path, first_address, more=config_of)
    dialer = tunnel(reactor, config)
    await until(reactor, lambda: len(old.service.registry) == 1)
    old.more = announcing(f'{{ address = "{new.address}", public_key = "{OTHER.public()}" }}')
    old.service.reload()
    await until(reactor, lambda: len(new.service.registry) == 1)
    await until(reactor, lambda: len(old.service.registry) == 0)
    await dialer.stop()
    await old.stop()
    again = tunnel(reactor, config)
    # The client's end is there before its first frame has reached the server's.
    await until(reactor, lambda: again.mux is not None and len(new.service.registry) == 1)
    await again.stop()
    await new.stop()


async def test_reloads_announce_only_what_clients_would_take(
    reactor: Any, tmp_path: Path, errors: list[str]
) -> None:
    server = Server(reactor, tmp_path, HOST, announcing('"a.example:443"'))
    registry = server.service.registry

    def pushed() -> tuple[int, list[str]]:
        made = verify(registry._endpoints, IDENTITY.public().raw)
        return made.version, [str(endpoint.destination) for endpoint in made.endpoints]

    assert pushed() == (1, ["a.example:443"])
    first = registry._endpoints
    server.service.reload()
    assert registry._endpoints is first, "nothing has changed"
    server.more = announcing('"b.example:443"')
    server.service.reload()
    assert registry._endpoints is first
    assert len(errors) == 1 and "endpoints_version has not been raised" in errors[0]
    server.more = announcing('"b.example:443"', version=2)
    server._key = OTHER  # which a reload does not change
    server.service.reload()
    assert pushed() == (2, ["b.example:443"])
    made = verify(registry._endpoints, IDENTITY.public().raw)
    assert made.endpoints[0].public_key == HOST.public().raw
    assert made.issued > 1_700_000_000
    server._key, server.more = HOST, ""
    server.service.reload()
    assert registry._endpoints == b""
    await server.stop()


def test_one_server_without_an_identity_touches_no_file(tmp_path: Path) -> None:
    config = client_config(tmp_path, "a.example:443")
    known = known_endpoints(fake_runtime(), config, Meters())
    known.worked(known.candidates[0], known.network)
    known.close()
    assert not list(tmp_path.iterdir())


def at(carrier: Carrier = Carrier.TLS, **fields: Any) -> ServerEndpoint:
    return ServerEndpoint(
        host="host.example", port=443, public_key=os.urandom(32), carrier=carrier, **fields
    )


def test_what_an_endpoint_leaves_open_is_as_in_the_clients_file(tmp_path: Path) -> None:
    pin = (
        'tls_sni = "front.example"\ntls_pin = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="'
    )
    config = client_config(tmp_path, "a.example:443", more=pin)
    made = tls_settings(config, at())
    assert (made.sni, made.pin) == ("front.example", bytes(32))
    made = tls_settings(config, at(sni="other.example"))
    assert (made.sni, made.pin) == ("other.example", None), "that pin is of another certificate"
    made = tls_settings(config, at(sni="other.example", pin=PIN))
    assert (made.sni, made.pin) == ("other.example", PIN)
    made = tls_settings(config, at(pin=PIN))
    assert (made.sni, made.pin) == ("front.example", PIN)
    plain = client_config(tmp_path, "a.example:443")
    assert tls_settings(plain, at()).sni == "host.example"


def test_hosts_of_requests() -> None:
    assert http_host("a.example", 443) == "a.example"
    assert http_host("a.example", 8443) == "a.example:8443"


def test_one_endpoint_does_not_set_the_clock_for_others(reactor: Any, tmp_path: Path) -> None:
    """Who got hold of a name and a certificate for it must not keep the client from the rest."""
    connect = connector(system_runtime(reactor), client_config(tmp_path, "192.0.2.1:443"))

    def endpoint(host: str, carrier: Carrier) -> ServerEndpoint:
        return ServerEndpoint(
            host=host, port=443, public_key=HOST.public().raw, carrier=carrier, sni=None
        )

    taken, bare = endpoint("taken.example", Carrier.TLS), endpoint("192.0.2.1", Carrier.TCP)
    connect(taken)[1].clock.refused(date=2e9, wall=1.8e9)
    assert connect(taken)[1].clock.time(1.8e9) == 2e9 + 1, "the next link there knows"
    assert connect(bare)[1].clock.time(1.8e9) == 1.8e9
