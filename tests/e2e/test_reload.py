"""SIGHUP: what changes, what stays, and what is told."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import time
from collections.abc import Callable

import pytest
from support.certificates import make_certificate
from support.destinations import TcpServer
from support.programs import PATIENCE, SERVER_NAME, Tunnel, key_text, works

from phantom.config.keys import PrivateKey

pytestmark = pytest.mark.e2e

MakeTunnel = Callable[..., Tunnel]


def reload(tunnel: Tunnel, answer: str) -> None:
    tunnel.write_server()
    tunnel.server.hang_up(answer)


def test_clients_come_and_go(make_tunnel: MakeTunnel, carrier: str, echo: TcpServer) -> None:
    tunnel = make_tunnel(carrier, client={"handshake_timeout": 1}).start()
    first_key = str(tunnel.client_key.public())
    first_client, first_stream = tunnel.client, tunnel.connect(echo.port)

    # A second client, not known yet.
    second_key = PrivateKey.generate(os.urandom)
    tunnel.client_settings["private_key"] = key_text(second_key)
    tunnel.start_client(linked=False)
    tunnel.client.wait_for("no link: ")

    tunnel.server_settings["allowed_clients"] = [first_key, f"{second_key.public()} second"]
    reload(tunnel, "reloaded; 2 clients allowed")
    tunnel.client.wait_for("link up after")
    second_stream = tunnel.connect(echo.port)
    assert works(first_stream) and works(second_stream)

    # The first one goes: at once, and alone.
    tunnel.server_settings["allowed_clients"] = [str(second_key.public())]
    start = time.monotonic()
    reload(tunnel, "reloaded; 1 clients allowed")
    first_stream.settimeout(2)
    with pytest.raises(ConnectionResetError):
        first_stream.recv(1)
    assert time.monotonic() - start < 1
    assert works(second_stream)
    before = len(first_client.log())
    first_client.wait_for("no link: ", after=before)
    assert "link up" not in first_client.log()[before:]
    for stream in (first_stream, second_stream):
        stream.close()


def test_egress_rules(make_tunnel: MakeTunnel, echo: TcpServer) -> None:
    tunnel = make_tunnel("tcp", client={"early_reply": "never"}).start()
    with tunnel.connect(echo.port) as live:
        tunnel.egress_settings = {"allow": []}
        reload(tunnel, "reloaded")
        with pytest.raises(ConnectionError, match="SOCKS5 reply 2"):
            tunnel.connect(echo.port)
        assert works(live)
        tunnel.egress_settings = {"allow": ["127.0.0.1"]}
        reload(tunnel, "reloaded")
        with tunnel.connect(echo.port) as connection:
            assert works(connection)


def served_serial(tunnel: Tunnel) -> int:
    """Return the serial number of the certificate that a visitor is shown."""
    from cryptography import x509

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(tunnel.server_address, timeout=PATIENCE) as connection,
        context.wrap_socket(connection, server_hostname=SERVER_NAME) as tls,
    ):
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def test_certificate(make_tunnel: MakeTunnel, echo: TcpServer) -> None:
    tunnel = make_tunnel("tls")
    old, new = tunnel.certificate, make_certificate(tunnel.folder, SERVER_NAME, "new")
    assert old is not None
    # This client trusts by authority, so that it can be shown the next certificate.
    authorities = tunnel.folder / "ca.pem"
    authorities.write_bytes(old.cert.read_bytes() + new.cert.read_bytes())
    del tunnel.client_settings["tls_pin"]
    tunnel.client_settings["tls_ca"] = str(authorities)
    tunnel.start()
    assert served_serial(tunnel) == old.serial
    with tunnel.connect(echo.port) as live:
        shutil.copy(new.cert, old.cert)
        shutil.copy(new.key, old.key)
        reload(tunnel, "reloaded")
        assert served_serial(tunnel) == new.serial
        assert works(live)
        # Half of a renewal: the certificate of one key beside another.
        shutil.copy(make_certificate(tunnel.folder, SERVER_NAME, "third").cert, old.cert)
        reload(tunnel, r"#error\]")
        assert served_serial(tunnel) == new.serial
        assert works(live)
        assert "link lost" not in tunnel.client.log()
    tunnel.start_client()  # one that meets the new certificate first


@pytest.mark.parametrize("damage", ["text", "key", "gone"])
def test_a_broken_file_changes_nothing(
    make_tunnel: MakeTunnel, echo: TcpServer, damage: str
) -> None:
    tunnel = make_tunnel("tcp").start()
    path = tunnel.write_server()
    with tunnel.connect(echo.port) as live:
        if damage == "gone":
            path.unlink()
        elif damage == "text":
            path.write_text("[server\n")
        else:
            text = path.read_text().replace("allowed_clients", "allowed_client")
            path.write_text(text + 'allow = ["10.0.0.0/8"]\n')
        tunnel.server.hang_up("not reloaded, everything stays as it was: .*server.toml")
        assert works(live)
        with tunnel.connect(echo.port) as connection:
            assert works(connection)
        log = tunnel.server.log()
        assert "Traceback" not in log
        assert str(tunnel.server_settings["private_key"]) not in log
        reload(tunnel, "reloaded; 1 clients allowed")
        assert works(live)
