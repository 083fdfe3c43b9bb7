"""Loading: what a good file becomes, and the exact line for every mistake in a bad one."""

from __future__ import annotations

import base64
import datetime
import json
from ipaddress import ip_address, ip_network
from pathlib import Path

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from phantom.address import Destination
from phantom.config import load
from phantom.config.document import parse_document
from phantom.config.keys import PrivateKey
from phantom.config.load import load_any, load_client, load_document, load_server
from phantom.config.schema import ClientFile, ServerFile
from phantom.config.schema_client import ClientConfig
from phantom.config.schema_server import EgressConfig, ServerConfig
from phantom.config.values import ListenAddress, UnixSocket
from phantom.core.egress import EgressRule
from phantom.errors import ConfigurationError, ConfigurationErrors

SERVER_KEY = PrivateKey(bytes(range(1, 33)))
CLIENT_KEY = PrivateKey(bytes(range(2, 34)))
OTHER_KEY = PrivateKey(bytes(range(3, 35)))
SECRET = SERVER_KEY.export()
SERVER = SERVER_KEY.public()
CLIENT = CLIENT_KEY.public()
OTHER = OTHER_KEY.public()

MINIMAL_SERVER = f'[server]\nlisten = "127.0.0.1:0"\nprivate_key = "{SECRET}"\n'
MINIMAL_CLIENT = (
    f'[client]\nserver = "h:443"\nserver_public_key = "{SERVER}"\n'
    f'private_key = "{CLIENT_KEY.export()}"\n'
)


def write(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def make_certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "example.com")])
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(day)
        .not_valid_after(day + datetime.timedelta(days=36500))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


def make_key_file(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with everything that a file can name."""
    key, other = (ec.derive_private_key(n, ec.SECP256R1()) for n in (7, 8))
    write(tmp_path / "cert.pem", make_certificate(key), 0o644)
    write(tmp_path / "chain.pem", make_certificate(other) + make_certificate(key), 0o644)
    write(tmp_path / "other.pem", make_certificate(other), 0o644)
    write(tmp_path / "key.pem", make_key_file(key))
    write(tmp_path / "open.pem", make_key_file(key), 0o644)
    write(tmp_path / "locked.pem", make_key_file(key, b"x"))
    write(tmp_path / "junk.pem", b"junk")
    write(tmp_path / "server.key", SECRET + "\n")
    write(tmp_path / "open.key", SECRET + "\n", 0o644)
    write(tmp_path / "hex.key", SERVER_KEY.raw.hex())
    write(
        tmp_path / "clients.txt",
        f"# who\n{CLIENT} laptop at home # mine\n\n\t{OTHER}\r\n",
    )
    write(tmp_path / "bad.txt", f"{CLIENT}\nnonsense!\n{CLIENT} again\n")
    (tmp_path / "site").mkdir()
    return tmp_path


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


# -- bad files --------------------------------------------------------------------------

KEY_FIX = "(it is 44 characters: letters, digits, +, / and a final =)"
LISTEN_FIX = '(for example "127.0.0.1:1080", "[::1]:1080" or ":443")'
DURATION = 'expected seconds, or a text like "500 ms" or "5 min"'

# Each is appended to the minimal server of three lines; {d} is the folder.
SERVER_MISTAKES = [
    ("max_streamz = 5", ":4: server.max_streamz: unknown key (did you mean max_streams?)"),
    ("xyzzy = 5", ":4: server.xyzzy: unknown key"),
    ("socks5_listen = 5", ":4: server.socks5_listen: unknown key (it belongs to [client])"),
    ("allow = []", ":4: server.allow: unknown key (it belongs to [server.egress])"),
    ("max_streams = true", ":4: server.max_streams: expected a whole number, not true or false"),
    ("max_streams = 1.5", ":4: server.max_streams: expected a whole number, not a number"),
    ("max_streams = 0", ":4: server.max_streams: must be from 1 to 1000000"),
    (
        "max_streams = 4097",
        ":4: server.max_streams: 4097 streams of 16 KiB do not fit into session_memory of 64 MiB "
        '(set session_memory = "65 MiB" or more, or max_streams = 4096 or less)',
    ),
    (
        'session_memory = "1 MiB"\nmax_streams = 1\nwindow = "4 MiB"',
        ":6: server.window: does not fit into session_memory of 1 MiB "
        '(set session_memory = "4 MiB" or more, or a smaller window)',
    ),
    (
        'session_memory = "64 megs"',
        ':4: server.session_memory: expected a number of bytes, or a text like "64 MiB"',
    ),
    ("window = 1", ":4: server.window: must be from 16 KiB to 1 GiB"),
    (
        'congestion = "BBR"',
        ':4: server.congestion: must be "auto", "system", or a name such as "bbr" or "cubic", '
        "in small letters",
    ),
    ("congestion = 1", ":4: server.congestion: expected a text in quotes, not a number"),
    ("keepalive = nan", ":4: server.keepalive: must be from 1 s to 3600 s"),
    ("keepalive = inf", ":4: server.keepalive: must be from 1 s to 3600 s"),
    (f"keepalive = {10**400}", ":4: server.keepalive: must be from 1 s to 3600 s"),
    ('keepalive = "soon"', f":4: server.keepalive: {DURATION}"),
    ("keepalive = [1]", f":4: server.keepalive: {DURATION}"),
    (
        'allowed_clients = "x"',
        ":4: server.allowed_clients: expected a list in brackets, not a text",
    ),
    (
        f'allowed_clients = [\n"{CLIENT}",\n"x", \n]',
        f":6: server.allowed_clients[1]: the public key is not base64 {KEY_FIX}",
    ),
    (
        f'allowed_clients = [\n"{CLIENT}",\n"{CLIENT}", \n]',
        ":6: server.allowed_clients[1]: listed twice",
    ),
    (
        f'allowed_clients = ["{SERVER}"]',
        ":4: server.allowed_clients: this is the server's own key "
        "(put the clients' public keys here)",
    ),
    (
        'allowed_clients_file = "none.txt"',
        ":4: server.allowed_clients_file: {d}/none.txt: no such file",
    ),
    (
        f'allowed_clients = ["{SECRET}"]',
        ":4: server.allowed_clients: this is the server's own private key "
        "(put the clients' public keys here)",
    ),
    (
        f'allowed_clients_file = "{SECRET}"',
        ":4: server.allowed_clients_file: expected a path, and this looks like a key itself",
    ),
    (
        'private_key_file = "server.key"',
        ":3: server.private_key: given with private_key_file (keep one of the two)",
    ),
    (
        'tls_cert = "cert.pem"',
        ":4: server.tls_cert: tls_key is missing (set tls_key too, or neither for bare TCP)",
    ),
    (
        'tls_key = "key.pem"',
        ":4: server.tls_key: tls_cert is missing (set tls_cert too, or neither for bare TCP)",
    ),
    (
        'tls_cert = "none.pem"\ntls_key = "key.pem"',
        ":4: server.tls_cert: {d}/none.pem: no such file",
    ),
    (
        'tls_cert = "site"\ntls_key = "key.pem"',
        ":4: server.tls_cert: {d}/site: this is a folder, and a file is expected",
    ),
    (
        'tls_cert = "junk.pem"\ntls_key = "key.pem"',
        ":4: server.tls_cert: {d}/junk.pem: holds no certificate in PEM",
    ),
    (
        'tls_cert = "cert.pem"\ntls_key = "junk.pem"',
        ":5: server.tls_key: {d}/junk.pem: holds no private key in PEM",
    ),
    (
        'tls_cert = "cert.pem"\ntls_key = "locked.pem"',
        ":5: server.tls_key: {d}/locked.pem: is protected by a passphrase "
        "(openssl pkey -in KEY -out PLAIN removes it)",
    ),
    (
        'tls_cert = "cert.pem"\ntls_key = "open.pem"',
        ":5: server.tls_key: {d}/open.pem: everyone can read this private key "
        "(chmod 600 {d}/open.pem)",
    ),
    (
        'tls_cert = "other.pem"\ntls_key = "key.pem"',
        ":5: server.tls_key: does not belong to the first certificate in tls_cert",
    ),
    (
        'tls_cert = "chain.pem"\ntls_key = "key.pem"',
        ":5: server.tls_key: does not belong to the first certificate in tls_cert "
        "(put the server's own certificate first in that file)",
    ),
    (
        'decoy = "site"',
        ":4: server.decoy: has no effect without TLS: a visitor on bare TCP gets silence "
        "(set tls_cert and tls_key, or remove it)",
    ),
    (
        'front_listen = "unix:front.sock"',
        ":4: server.front_listen: trusted_proxies does not have the front that connects to "
        'unix:{d}/front.sock (add "unix:{d}/front.sock" to trusted_proxies, if only the front can '
        "connect there)",
    ),
    (
        'front_listen = "unix:front.sock"\ntrusted_proxies = ["unix:other.sock", "127.0.0.1"]',
        ":4: server.front_listen: trusted_proxies does not have the front that connects to "
        'unix:{d}/front.sock (add "unix:{d}/front.sock" to trusted_proxies, if only the front can '
        "connect there)",
    ),
    (
        'front_listen = "127.0.0.1:8442"\ntrusted_proxies = ["unix:x.sock", "10.0.0.0/8"]',
        ":4: server.front_listen: trusted_proxies does not have the front that connects to "
        '127.0.0.1:8442 (add "127.0.0.1" to trusted_proxies, if only the front can connect there)',
    ),
    (
        'front_listen = "0.0.0.0:8442"\ntrusted_proxies = ["0.0.0.0/0"]',
        ":4: server.front_listen: other machines could connect to 0.0.0.0:8442, past the front "
        'that ends TLS (listen on "127.0.0.1:8442", or better on a unix socket)',
    ),
    (
        'front_listen = [":8442"]\ntrusted_proxies = ["127.0.0.1"]',
        ":4: server.front_listen: other machines could connect to :8442, past the front that ends "
        'TLS (listen on "127.0.0.1:8442", or better on a unix socket)',
    ),
    (
        'front_listen_h2 = "unix:h2.sock"\ntrusted_proxies = ["unix:h2.sock"]',
        ":4: server.front_listen_h2: needs decoy_h2c, which visitors over HTTP/2 get (set "
        "decoy_h2c, or let the front agree to http/1.1 only)",
    ),
    (
        'tls_groups = "X25519:of-tomorrow"',
        ':4: server.tls_groups: OpenSSL knows no group "of-tomorrow" (see the names with '
        '`openssl list -tls-groups` (OpenSSL 3.5), or set "auto")',
    ),
    (
        'tls_groups = "X25519, P-256"',
        ':4: server.tls_groups: must be "auto", "library", or groups with colons between them, '
        'such as "X25519:P-256"',
    ),
    (
        'tls_engine = "boringssl"\ntls_groups = "X25519"',
        ":5: server.tls_groups: has no effect with BoringSSL, which has its own (remove it)",
    ),
    (
        'tls_cert = "cert.pem"\ntls_key = "key.pem"\ndecoy = "nowhere"',
        ":6: server.decoy: no such folder",
    ),
    (
        'tls_cert = "cert.pem"\ntls_key = "key.pem"\ndecoy = "junk.pem"',
        ":6: server.decoy: this is a file, and a folder is expected",
    ),
    (
        'decoy = "https://localhost"',
        ':4: server.decoy: the decoy is reached by plain "http://", because the visitor\'s TLS '
        "ends here",
    ),
    (
        'decoy = "http://localhost/path"',
        ":4: server.decoy: only the scheme, the host and the port can be given "
        '(expected "http://host:port")',
    ),
    ('state_dir = "junk.pem"', ":4: server.state_dir: this is a file, and a folder is expected"),
    ('state_dir = ""', ":4: server.state_dir: expected the path of a file or folder"),
    (
        r'state_dir = "a\u001b[2Jb"',
        ":4: server.state_dir: a path cannot hold control characters here",
    ),
    (
        'trusted_proxies = ["10.0.0.1/8"]',
        ':4: server.trusted_proxies[0]: the network has host bits set (did you mean "10.0.0.0/8"?)',
    ),
    (
        'trusted_proxies = ["everyone"]',
        ':4: server.trusted_proxies[0]: expected a network like "10.0.0.0/8" or "fd00::/8"',
    ),
    (
        "egress = 5",
        ":4: server.egress: expected a table: a line [server.egress] and its keys below",
    ),
    ("[server.egress]\ndenied = []", ":5: server.egress.denied: unknown key (did you mean deny?)"),
    ("[loging]", ":4: loging: unknown table or key (did you mean logging?)"),
    ("[client]", ":4: client: unknown table or key (a server and a client have a file each)"),
    (
        '[logging]\nlevel = "loud"',
        ':5: logging.level: must be "trace", "debug", "info", "warn" or "error"',
    ),
    ("[logging]\nlevel = 3", ":5: logging.level: expected a text in quotes, not a number"),
    (
        "[logging]\nlevel = 2020-01-01",
        ":5: logging.level: expected a text in quotes, not a date or time",
    ),
]


def mistakes(load_it, path: Path) -> list[str]:
    with pytest.raises(ConfigurationErrors) as caught:
        load_it(path)
    assert str(caught.value) == "\n".join(str(error) for error in caught.value.errors)
    return str(caught.value).split("\n")


@pytest.mark.parametrize(("text", "message"), SERVER_MISTAKES)
def test_mistakes_in_a_server_file(text: str, message: str, folder: Path) -> None:
    path = write(folder / "s.toml", MINIMAL_SERVER + text)
    # A mistake about a default has no line of its own: it has its table's.
    expected = f"{path}{message.replace(':0:', ':1:').replace('{d}', str(folder))}"
    assert mistakes(load_server, path) == [expected]


WHOLE_SERVER_MISTAKES = [
    ("", ': the table [server] is missing (see "phantom init --help")'),
    (
        'listen = ":1"\n[server]\nprivate_key = "KEY"',
        ":1: listen: unknown table or key (move it below the line [server])\n"
        ":2: server.listen: missing",
    ),
    ("server = 5", ":1: server: expected a table: a line [server] and its keys below"),
    (
        "[server]",
        ':1: server.private_key: missing (or set private_key_file; "phantom genkey" makes a key)\n'
        ":1: server.listen: missing",
    ),
    ('[server]\nlisten = []\nprivate_key = "KEY"', ":2: server.listen: missing"),
    (
        '[server]\nlisten = "example.com:1"\nprivate_key = "KEY"',
        ":2: server.listen: not an IP address of this machine "
        '(host names are not looked up here; ":PORT" listens on every address)',
    ),
    (
        '[server]\nlisten = "::1:1"\nprivate_key = "KEY"',
        f":2: server.listen: expected address:port {LISTEN_FIX}",
    ),
    (
        '[server]\nlisten = "1.2.3.4:65536"\nprivate_key = "KEY"',
        ":2: server.listen: a port is a number from 0 to 65535",
    ),
    (
        '[server]\nlisten = ":1"\nprivate_key = "BASE64"',
        f":3: server.private_key: the private key is not base64 {KEY_FIX}",
    ),
    (
        '[server]\nlisten = ":1"\nprivate_key_file = "open.key"',
        ":3: server.private_key_file: {d}/open.key: others can read this private key "
        "(chmod 600 {d}/open.key)",
    ),
    (
        '[server]\nlisten = ":1"\nprivate_key_file = "hex.key"',
        ":3: server.private_key_file: {d}/hex.key: the private key is written in hexadecimal, "
        "and base64 is expected (convert it with: xxd -r -p | base64)",
    ),
    (
        '[server]\nlisten = ":1"\nprivate_key_file = "none.key"',
        ":3: server.private_key_file: {d}/none.key: no such file",
    ),
    ("[client]\nserver = 'h:1'", ":1: client: did you mean [server]? this is a client file"),
    (
        '[server]\nlistne = ":1"\nprivate_key = 5\n\nkeepalive = 0',
        ":1: server.listen: missing\n"
        ":2: server.listne: unknown key (did you mean listen?)\n"
        ":3: server.private_key: expected a text in quotes, not a number\n"
        ":5: server.keepalive: must be from 1 s to 3600 s",
    ),
]


@pytest.mark.parametrize(("text", "messages"), WHOLE_SERVER_MISTAKES)
def test_mistakes_in_a_whole_server_file(text: str, messages: str, folder: Path) -> None:
    path = write(folder / "s.toml", text.replace("KEY", SECRET))
    expected = [f"{path}{line}" for line in messages.replace("{d}", str(folder)).split("\n")]
    assert mistakes(load_server, path) == expected


# Each is appended to the minimal client of four lines.
CLIENT_MISTAKES = [
    (
        'tls_profile = "firefox"',
        ':5: client.tls_profile: there is no honest "firefox": Firefox speaks TLS by NSS, whose '
        'hello the library behind this cannot make (use "chrome")',
    ),
    (
        'tls_profile = "lynx"',
        ':5: client.tls_profile: must be "chrome", "chrome:NUMBER" or "random"',
    ),
    ('tls_ech = "AAAA"', ":5: client.tls_ech: is no ECHConfigList"),
    ('cipher = "rot13"', ':5: client.cipher: must be "auto", "aesgcm" or "chachapoly"'),
    ('early_reply = "yes"', ':5: client.early_reply: must be "known", "always" or "never"'),
    ("open_proxy = 1", ":5: client.open_proxy: expected true or false, not a number"),
    ("listen = 1", ":5: client.listen: unknown key (it belongs to [server])"),
    (
        'http_listen = "0.0.0.0:8080"',
        ":5: client.http_listen: other machines could use this proxy without a password "
        '(listen on "127.0.0.1:8080", add [client.proxy_users], or set open_proxy = true)',
    ),
    (
        "http_listen = false\nsocks5_listen = ''",
        ":6: client.socks5_listen: both proxies are turned off (set it or http_listen)",
    ),
    ("http_listen = true", ":5: client.http_listen: expected a text in quotes, not true or false"),
    ("http_listen = [':1']", ":5: client.http_listen: expected one address, not a list"),
    (
        'tls_sni = "10.0.0.1"',
        ":5: client.tls_sni: TLS names a host, never an address "
        '(expected a host name like "example.com")',
    ),
    (
        'tls_ca = "cert.pem"',
        ":5: client.tls_ca: has no effect without tls_sni (set tls_sni, or remove it)",
    ),
    (
        'tls_sni = "a.b"\ntls_ca = "junk.pem"',
        ":6: client.tls_ca: {d}/junk.pem: holds no certificate in PEM",
    ),
    (
        'tls_sni = "a.b"\ntls_pin = "sha256/AAAA"',
        ":6: client.tls_pin: expected sha256/BASE64, the digest of the certificate's public key "
        "(openssl x509 -in fullchain.pem -noout -pubkey | openssl pkey -pubin -outform DER "
        "| openssl dgst -sha256 -binary | base64)",
    ),
    (
        "proxy_users = 5",
        ':5: client.proxy_users: expected a table of name = "password", not a number',
    ),
    (
        '[client.proxy_users]\nok = "x"\nbob = ""',
        ":7: client.proxy_users.bob: a password has 1 to 255 bytes",
    ),
    (
        '[client.proxy_users]\n"a:b" = "x"',
        ':6: client.proxy_users."a:b": a user name cannot hold a colon or control characters',
    ),
    (
        "[client.proxy_users]\nbob = 5",
        ":6: client.proxy_users.bob: expected the password in quotes, not a number",
    ),
    ("[server]", ":5: server: unknown table or key (a server and a client have a file each)"),
]


@pytest.mark.parametrize(("text", "message"), CLIENT_MISTAKES)
def test_mistakes_in_a_client_file(text: str, message: str, folder: Path) -> None:
    path = write(folder / "c.toml", MINIMAL_CLIENT + text)
    assert mistakes(load_client, path) == [f"{path}{message.replace('{d}', str(folder))}"]


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ('"h"', 'the port is missing (expected "host:port", for example "example.com:443")'),
        ("[]", "the list is empty"),
        ("443", "expected a text in quotes, not a number"),
    ],
)
def test_mistakes_in_the_server_to_connect_to(server: str, message: str, folder: Path) -> None:
    path = write(folder / "c.toml", MINIMAL_CLIENT.replace('"h:443"', server))
    assert mistakes(load_client, path) == [f"{path}:2: client.server: {message}"]


def test_several_servers(folder: Path) -> None:
    text = MINIMAL_CLIENT.replace('"h:443"', '["h:443", "[2001:db8::1]:8443"]')
    client = load_client(write(folder / "c.toml", text)).client
    assert [str(server) for server in client.server] == ["h:443", "[2001:db8::1]:8443"]


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ('["a:1", "b"]', 'server[1]: the port is missing (expected "host:port", for example '
         '"example.com:443")'),
        ('["a:1", "a:1"]', "server[1]: listed twice"),
        (str([f"h{i}:1" for i in range(33)]), "server: at most 32 can be listed"),
    ],
)  # fmt: skip
def test_mistakes_in_a_list_of_servers(server: str, message: str, folder: Path) -> None:
    path = write(folder / "c.toml", MINIMAL_CLIENT.replace('"h:443"', server))
    assert mistakes(load_client, path) == [f"{path}:2: client.{message}"]


def test_the_client_cannot_be_its_own_server(folder: Path) -> None:
    path = write(folder / "c.toml", MINIMAL_CLIENT.replace(str(SERVER), str(CLIENT)))
    assert mistakes(load_client, path) == [
        f"{path}:3: client.server_public_key: this is the client's own key (put the server's here)"
    ]


def test_a_server_file_given_to_the_client(folder: Path) -> None:
    path = write(folder / "s.toml", "\n" + MINIMAL_SERVER)
    assert mistakes(load_client, path) == [
        f"{path}:2: server: did you mean [client]? this is a server file"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": neither a server's file nor a client's (it needs a table [server] or [client])"),
        (
            "[sever]",
            ":1: sever: neither a server's file nor a client's (did you mean [server]?)",
        ),
        (
            "[server]\n[client]",
            ":2: client: [server] and [client] are in one file (give each a file of its own)",
        ),
    ],
)
def test_a_file_of_no_kind(text: str, message: str, folder: Path) -> None:
    path = write(folder / "x.toml", text)
    assert mistakes(load_any, path) == [f"{path}{message}"]


def test_mistakes_in_the_file_of_clients(folder: Path) -> None:
    text = MINIMAL_SERVER + 'allowed_clients_file = "bad.txt"\nxyzzy = 1\n'
    path = write(folder / "s.toml", text)
    assert mistakes(load_server, path) == [
        f"{path}:5: server.xyzzy: unknown key",
        f"{folder}/bad.txt:2: the public key is not base64 {KEY_FIX}",
        f"{folder}/bad.txt:3: listed already on line 1",
    ]


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o606])
@pytest.mark.parametrize(
    ("load_it", "text", "key"),
    [
        (load_server, MINIMAL_SERVER, "3: server.private_key"),
        (
            load_client,
            MINIMAL_CLIENT.replace("private_key =", 'private_key_file = "server.key"\n#').replace(
                str(SERVER), str(OTHER)
            )
            + '[client.proxy_users]\na = "b"\n',
            "6: client.proxy_users",
        ),
    ],
)
def test_secrets_in_a_file_that_everyone_can_read(
    load_it, text: str, key: str, mode: int, folder: Path
) -> None:
    path = write(folder / "f.toml", text, mode)
    assert mistakes(load_it, path) == [
        f"{path}:{key}: everyone can read this file, and it holds a secret (chmod 600 {path})"
    ]


def test_no_such_file(folder: Path) -> None:
    for load_it in (load_server, load_client, load_any):
        with pytest.raises(ConfigurationError) as caught:
            load_it(folder / "none.toml")
        assert str(caught.value) == f"{folder}/none.toml: no such file"


# -- secrets ----------------------------------------------------------------------------


def test_secrets_are_in_no_repr_and_no_mistake(folder: Path) -> None:
    password = "correct horse"
    server = load_server(write(folder / "s.toml", MINIMAL_SERVER))
    text = MINIMAL_CLIENT + f'[client.proxy_users]\nalice = "{password}"\n'
    client = load_client(write(folder / "c.toml", text))
    shown = f"{server} {server!r} {client} {client!r}"
    shown += repr(list(client.client.proxy_users.values()))
    bad = (
        MINIMAL_SERVER.replace(SECRET, SECRET[:-1]) + f'nonsense = "{SECRET}"\n'
        f'max_streams = "{SECRET}"\nkeepalive = "{SECRET}"\nstate_dir = 5\ndecoy = "http://{SECRET}"'
    )
    shown += "\n".join(mistakes(load_server, write(folder / "bad.toml", bad)))
    with pytest.raises(ConfigurationError) as caught:
        load_server(write(folder / "worse.toml", f"[server]\nprivate_key = {SECRET}\n"))
    shown += f"{caught.value} {caught.value!r} {caught.value.__context__!r}"
    for secret in (SECRET[:12], CLIENT_KEY.export()[:12], password, "alice"):
        assert secret not in shown


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
