"""The exact line for every mistake in a server's file."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.config_files import CLIENT, MINIMAL_SERVER, SECRET, SERVER, mistakes, write

from phantom.config.load import load_server

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


def test_mistakes_in_the_file_of_clients(folder: Path) -> None:
    text = MINIMAL_SERVER + 'allowed_clients_file = "bad.txt"\nxyzzy = 1\n'
    path = write(folder / "s.toml", text)
    assert mistakes(load_server, path) == [
        f"{path}:5: server.xyzzy: unknown key",
        f"{folder}/bad.txt:2: the public key is not base64 {KEY_FIX}",
        f"{folder}/bad.txt:3: listed already on line 1",
    ]
