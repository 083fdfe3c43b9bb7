"""Loading: what a good file becomes, and that any text is a configuration or a mistake."""

from __future__ import annotations

import base64
import json
from ipaddress import ip_address, ip_network
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.config_files import (
    CLIENT,
    CLIENT_KEY,
    MINIMAL_CLIENT,
    MINIMAL_SERVER,
    OTHER,
    SECRET,
    SERVER,
    SERVER_KEY,
    write,
)

from phantom.address import Destination
from phantom.config import load
from phantom.config.document import parse_document
from phantom.config.load import load_any, load_client, load_document, load_server
from phantom.config.schema import ClientFile, ServerFile
from phantom.config.schema_client import ClientConfig
from phantom.config.schema_server import EgressConfig, ServerConfig
from phantom.config.values import ListenAddress, UnixSocket
from phantom.core.egress import EgressRule
from phantom.errors import ConfigurationError

# -- good files -------------------------------------------------------------------------


def test_a_minimal_server(folder: Path) -> None:
    loaded = load_server(write(folder / "s.toml", MINIMAL_SERVER))
    assert loaded.server.listen == (ListenAddress(ip_address("127.0.0.1"), 0),)
    assert loaded.server.private_key.raw == SERVER_KEY.raw
    assert loaded.server.allowed_clients == ()
    assert loaded.server.tls_cert is loaded.server.decoy is None
    assert loaded.server.state_dir.is_absolute()
    assert loaded.server.session_memory == 64 * 1024 * 1024
    assert loaded.server.handshake_timeout == 10.0
    assert loaded.server.egress == EgressConfig()
    assert loaded.logging.level == "info"


def test_a_full_server(folder: Path) -> None:
    text = f"""
[server]
listen = ["0.0.0.0:443", "[::1]:8443", ":80", "localhost:81"]
private_key_file = "server.key"
allowed_clients = ["{OTHER} work"]
allowed_clients_file = "./clients.txt"
tls_cert = "cert.pem"
tls_key = "site/../key.pem"
decoy = "http://127.0.0.1:8080/"
max_streams = 4096
state_dir = "state"
trusted_proxies = ["10.0.0.0/8", "::1", "unix:run/proxy.sock"]
handshake_timeout = "500 ms"
keepalive = 1.5
drain_timeout = "2 min"
session_memory = "0.25 GiB"
window = 65536
[server.egress]
allow = ["10.1.0.0/16", "10.2.0.0/16:443", "[fd00::/8]:1-99"]
deny = [":25"]
[logging]
level = "warn"
"""
    loaded = load_server(write(folder / "s.toml", text, 0o644))
    server = loaded.server
    assert [str(address) for address in server.listen] == [
        "0.0.0.0:443",
        "[::1]:8443",
        ":80",
        "127.0.0.1:81",
    ]
    assert server.private_key.raw == SERVER_KEY.raw
    assert [(client.key, client.name) for client in server.allowed_clients] == [
        (OTHER, "work"),
        (CLIENT, "laptop at home"),
    ]
    assert server.tls_cert == folder / "cert.pem"
    assert server.tls_key == folder / "key.pem"
    assert server.decoy == Destination("127.0.0.1", 8080) or server.decoy == Destination(
        ip_address("127.0.0.1"), 8080
    )
    assert server.state_dir == folder / "state"
    assert server.trusted_proxies == (
        ip_network("10.0.0.0/8"),
        ip_network("::1/128"),
        UnixSocket(folder / "run/proxy.sock"),
    )
    assert (server.handshake_timeout, server.keepalive, server.drain_timeout) == (0.5, 1.5, 120.0)
    assert (server.session_memory, server.window) == (256 * 1024 * 1024, 65536)
    assert server.egress.allow == (
        EgressRule(ip_network("10.1.0.0/16"), 1, 65535),
        EgressRule(ip_network("10.2.0.0/16"), 443, 443),
        EgressRule(ip_network("fd00::/8"), 1, 99),
    )
    assert server.egress.deny == (EgressRule(None, 25, 25),)
    assert loaded.logging.level == "warn"


def test_a_folder_as_decoy(folder: Path) -> None:
    text = MINIMAL_SERVER + 'tls_cert = "cert.pem"\ntls_key = "key.pem"\ndecoy = "site"\n'
    assert load_server(write(folder / "s.toml", text)).server.decoy == folder / "site"


def test_a_minimal_client(folder: Path) -> None:
    client = load_client(write(folder / "c.toml", MINIMAL_CLIENT)).client
    assert client.server == (Destination("h", 443),)
    assert client.server_public_key == SERVER
    assert str(client.socks5_listen) == "127.0.0.1:1080"
    assert str(client.http_listen) == "127.0.0.1:8080"
    assert client.proxy_users == {}
    assert client.tls_sni is None
    assert client.tcp_prefix is True
    assert (client.keepalive, client.drain_timeout, client.link_wait) == (20.0, 1.0, 15.0)


def test_a_full_client(folder: Path) -> None:
    digest = bytes(range(32))
    text = f"""
[client]
server = ["[2001:db8::1]:443"]
server_public_key = "{SERVER}"
private_key = "{CLIENT_KEY.export()}"
socks5_listen = "0.0.0.0:1080"
http_listen = ""
tls_sni = "Example.COM"
tls_pin = "sha256/{base64.b64encode(digest).decode()}"
cipher = "chachapoly"
early_reply = "never"
tcp_prefix = false
[client.proxy_users]
alice = "wonder"
"b b" = "ü"
"""
    client = load_client(write(folder / "c.toml", text)).client
    assert client.server == (Destination(ip_address("2001:db8::1"), 443),)
    assert client.http_listen is None
    assert client.tls_sni == "example.com"
    assert client.tls_pin is not None
    assert client.tls_pin.digest == digest
    assert {name: secret.reveal() for name, secret in client.proxy_users.items()} == {
        "alice": "wonder",
        "b b": "ü",
    }


def test_several_servers(folder: Path) -> None:
    text = MINIMAL_CLIENT.replace('"h:443"', '["h:443", "[2001:db8::1]:8443"]')
    client = load_client(write(folder / "c.toml", text)).client
    assert [str(server) for server in client.server] == ["h:443", "[2001:db8::1]:8443"]


def test_false_turns_a_proxy_off(folder: Path) -> None:
    text = MINIMAL_CLIENT + "socks5_listen = false\n"
    assert load_client(write(folder / "c.toml", text)).client.socks5_listen is None


def test_an_open_proxy_on_request(folder: Path) -> None:
    text = MINIMAL_CLIENT + 'socks5_listen = ":1080"\nopen_proxy = true\n'
    listen = load_client(write(folder / "c.toml", text)).client.socks5_listen
    assert listen is not None
    assert (listen.interface, listen.port, listen.is_loopback) == ("::", 1080, False)


def test_either_kind_is_recognised(folder: Path) -> None:
    assert isinstance(load_any(write(folder / "a", MINIMAL_SERVER)), ServerFile)
    assert isinstance(load_any(write(folder / "b", MINIMAL_CLIENT)), ClientFile)


def test_the_client_looks_where_configuration_is_kept(folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "xdg"))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr(load, "client_config_candidates", lambda _e: [folder / "x", folder / "y"])
    with pytest.raises(ConfigurationError) as caught:
        load_client(None)
    assert str(caught.value) == (
        f"no client configuration found; looked for {folder}/x and {folder}/y "
        '(name one with --config, or make one with "phantom init client")'
    )
    write(folder / "y", MINIMAL_CLIENT)
    assert load_client(None).client.server == (Destination("h", 443),)


# -- any text ---------------------------------------------------------------------------

NAMES = sorted(
    {
        field.name
        for cls in (ServerConfig, ClientConfig, EgressConfig)
        for field in attrs.fields(cls)
    }
)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        [
            SECRET,
            str(CLIENT),
            "10.0.0.0/8:80",
            "[::]:443",
            "http://x:1",
            "unix:",
            "1 MiB",
            "sha256/",
            "junk\x00",
            "~",
            ":0",
            "::1",
            "[",
        ]
    ),
)


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + "}"
    return str(value)


VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.text(max_size=4), SCALARS, max_size=2),
).map(toml)
LINES = st.one_of(
    st.builds("{} = {}".format, st.sampled_from(NAMES), VALUES),
    st.sampled_from(
        ["[server]", "[client]", "[server.egress]", "[logging]", "[[server]]", "x.y=1"]
    ),
    st.text(max_size=10),
)


@given(st.lists(LINES, max_size=8).map("\n".join), st.sampled_from([ServerFile, ClientFile]))
def test_any_text_is_a_configuration_or_a_mistake(text: str, kind) -> None:
    try:
        loaded = load_document(parse_document(text, "f", Path("/nowhere"), 0o644), kind)
    except ConfigurationError as error:
        assert SECRET not in str(error)
        assert all(line.startswith(("f:", "/")) for line in str(error).split("\n"))
    else:
        assert isinstance(loaded, kind)


@given(
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6),
    st.sampled_from([(ServerFile, MINIMAL_SERVER), (ClientFile, MINIMAL_CLIENT)]),
)
def test_any_value_is_a_setting_or_a_mistake(settings: dict[str, str], base) -> None:
    kind, text = base
    text += "".join(f"{name} = {value}\n" for name, value in settings.items() if name not in text)
    try:
        loaded = load_document(parse_document(text, "f", Path("/nowhere")), kind)
    except ConfigurationError as error:
        assert SECRET not in str(error)
    else:
        assert isinstance(loaded, kind)
        assert SECRET not in repr(loaded)
