"""The exact line for every mistake in a client's file, and files of no kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.config_files import CLIENT, MINIMAL_CLIENT, MINIMAL_SERVER, SERVER, mistakes, write

from phantom.config.load import load_any, load_client, load_server
from phantom.errors import ConfigurationError

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


def test_no_such_file(folder: Path) -> None:
    for load_it in (load_server, load_client, load_any):
        with pytest.raises(ConfigurationError) as caught:
            load_it(folder / "none.toml")
        assert str(caught.value) == f"{folder}/none.toml: no such file"
