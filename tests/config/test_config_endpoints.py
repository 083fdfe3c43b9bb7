"""Identities and announced endpoints in configuration files."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from phantom.address import Destination
from phantom.config.announced import AnnouncedEndpoint, announced_list
from phantom.config.document import parse_document
from phantom.config.identity_keys import IdentityKey, IdentityPublicKey
from phantom.config.keys import PrivateKey
from phantom.config.load import load_document
from phantom.config.schema import ClientFile, ServerFile
from phantom.config.template import effective
from phantom.core.endpoint_list import Carrier
from phantom.crypto.identity import public_of
from phantom.errors import ConfigurationError, ConfigurationErrors

SERVER = PrivateKey(bytes(range(1, 33)))
OTHER = PrivateKey(bytes(range(2, 34)))
CLIENT = PrivateKey(bytes(range(3, 35)))
IDENTITY = IdentityKey(bytes(range(4, 36)))
MINIMAL_SERVER = f'[server]\nlisten = ":443"\nprivate_key = "{SERVER.export()}"\n'
SIGNED = f'identity_key = "{IDENTITY.export()}"\nendpoints_version = 3\n'
MINIMAL_CLIENT = (
    f'[client]\nserver = "h:443"\nserver_public_key = "{SERVER.public()}"\n'
    f'private_key = "{CLIENT.export()}"\n'
)
PIN = "sha256/" + base64.b64encode(bytes(32)).decode()


def load(text: str, kind, folder: Path = Path("/")):
    return load_document(parse_document(text, "f", folder), kind)


def mistakes(text: str, kind, folder: Path = Path("/")) -> list[str]:
    with pytest.raises(ConfigurationErrors) as caught:
        load(text, kind, folder)
    return [str(error) for error in caught.value.errors]


def test_strings_mean_this_host_and_tables_any() -> None:
    text = (
        MINIMAL_SERVER
        + SIGNED
        + 'endpoints = ["a.example:443", { address = "[2001:db8::1]:8443", '
        + f'public_key = "{OTHER.public()}", carrier = "tls", sni = "B.example", pin = "{PIN}" }}]'
    )
    server = load(text, ServerFile).server
    assert server.identity_key == IDENTITY and server.endpoints_version == 3
    made = announced_list(server.endpoints, 3, 9, SERVER.public(), False)
    assert (made.version, made.issued) == (3, 9)
    own, other = made.endpoints
    assert (own.host, own.port, own.public_key) == ("a.example", 443, SERVER.public().raw)
    assert (own.carrier, own.sni, own.pin) == (Carrier.TCP, None, None)
    assert str(other.destination) == "[2001:db8::1]:8443"
    assert other.public_key == OTHER.public().raw
    assert (other.carrier, other.sni, other.pin) == (Carrier.TLS, "b.example", bytes(32))
    with_tls = announced_list(server.endpoints[:1], 3, 9, SERVER.public(), True)
    assert with_tls.endpoints[0].carrier is Carrier.TLS


def test_what_is_shown_reads_back_and_hides_the_key() -> None:
    text = (
        MINIMAL_SERVER
        + SIGNED
        + f'endpoints = ["a:1", {{ address = "b:2", carrier = "tls", pin = "{PIN}" }}]\n'
    )
    server = load(text, ServerFile).server
    shown = effective(server, "server")
    assert IDENTITY.export() not in shown and SERVER.export() not in shown
    whole = shown.replace('private_key = "(hidden)"', f'private_key = "{SERVER.export()}"')
    whole = whole.replace('identity_key = "(hidden)"', f'identity_key = "{IDENTITY.export()}"')
    assert load(whole, ServerFile).server == server


def test_an_identity_alone_is_fine_and_can_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    path.write_text(IDENTITY.export() + "\n")
    path.chmod(0o600)
    text = MINIMAL_SERVER + 'identity_key_file = "identity.key"\n'
    assert load(text, ServerFile, tmp_path).server.identity_key == IDENTITY
    path.chmod(0o644)
    assert mistakes(text, ServerFile, tmp_path) == [
        f"f:4: server.identity_key_file: {path}: others can read this private key "
        f"(chmod 600 {path})"
    ]


def test_a_client_without_and_with_an_identity(tmp_path: Path) -> None:
    client = load(MINIMAL_CLIENT, ClientFile).client
    assert client.server_identity is None and client.state_dir.is_absolute()
    text = MINIMAL_CLIENT + f'server_identity = "{IDENTITY.public()}"\nstate_dir = "s"'
    client = load(text, ClientFile, tmp_path).client
    assert client.server_identity == IDENTITY.public()
    assert client.state_dir == tmp_path / "s"


SERVER_MISTAKES = [
    ('endpoints = ["a:1"]\nendpoints_version = 1', ":4: server.endpoints: there is no identity_key "
     "to sign them (phantom genkey --identity makes one, for identity_key or identity_key_file)"),
    (f'identity_key = "{IDENTITY.export()}"\nendpoints = ["a:1"]',
     ":5: server.endpoints: endpoints_version is missing (set endpoints_version = 1)"),
    (SIGNED, ":5: server.endpoints_version: has no effect without endpoints (remove it)"),
    (SIGNED.replace("3", "0"),
     ":5: server.endpoints_version: must be from 1 to 9223372036854775807"),
    (SIGNED.replace("3", '"3"'),
     ":5: server.endpoints_version: expected a whole number, not a text"),
    (SIGNED + 'endpoints = "a:1"',
     ":6: server.endpoints: expected a list in brackets, not a text"),
    (SIGNED + 'endpoints = ["a"]', ":6: server.endpoints[0]: the port is missing (expected "
     '"host:port", for example "example.com:443")'),
    (SIGNED + 'endpoints = ["a:1",\n "a:1"]', ":7: server.endpoints[1]: listed twice"),
    (SIGNED + "endpoints = [1]", ":6: server.endpoints[0]: expected a text in quotes or a table "
     '(for example "a.example:443", or { address = "b.example:443", public_key = "BASE64" })'),
    (SIGNED + 'endpoints = [{ adress = "a:1" }]',
     ":6: server.endpoints[0]: an endpoint with an unknown key (did you mean address?)"),
    (SIGNED + 'endpoints = [{ xyzzy = "a:1" }]',
     ":6: server.endpoints[0]: an endpoint with an unknown key "
     "(known are address, public_key, carrier, sni, pin)"),
    (SIGNED + 'endpoints = [{ carrier = "tcp" }]',
     ':6: server.endpoints[0]: the address is missing (address = "host:port")'),
    (SIGNED + 'endpoints = [{ address = "a:1", carrier = 1 }]',
     ":6: server.endpoints[0]: carrier must be a text in quotes"),
    (SIGNED + 'endpoints = [{ address = "a:1", carrier = "udp" }]',
     ':6: server.endpoints[0]: carrier must be "tcp" or "tls"'),
    (SIGNED + 'endpoints = [{ address = "a:1", public_key = "abc" }]',
     ":6: server.endpoints[0]: public_key: the public key is not base64 "
     "(it is 44 characters: letters, digits, +, / and a final =)"),
    (SIGNED + 'endpoints = [{ address = "a:1", carrier = "tls", sni = "1.2.3.4" }]',
     ":6: server.endpoints[0]: sni: TLS names a host, never an address "
     '(expected a host name like "example.com")'),
    (SIGNED + 'endpoints = [{ address = "a:1", carrier = "tcp", sni = "b" }]',
     ':6: server.endpoints[0]: sni and pin have no effect without TLS (set carrier = "tls")'),
    (SIGNED + 'endpoints = [{ address = "a:1", sni = "b" }]',
     ":6: server.endpoints: sni and pin of a:1 have no effect: this host has no TLS "
     '(add carrier = "tls" if that host has)'),
    (SIGNED + f"endpoints = {[f'h{i}:1' for i in range(33)]}",
     ":6: server.endpoints: at most 32 can be listed"),
    (f'identity_key = "{SERVER.export()}"', ":4: server.identity_key: this is the server's "
     "private_key, and an identity is a key of its own (phantom genkey --identity)"),
    ('identity_key = ""', ":4: server.identity_key: the identity's private key is empty"),
    (f'identity_key = "{base64.b64encode(bytes(32)).decode()}"',
     ":4: server.identity_key: the identity's private key is all zeroes "
     '(make one with "phantom genkey --identity")'),
    (SIGNED + 'identity_key_file = "x"', None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), SERVER_MISTAKES)
def test_mistakes_of_a_server(text: str, message: str | None) -> None:
    found = mistakes(MINIMAL_SERVER + text, ServerFile)
    if message is None:
        assert "f:4: server.identity_key: given with identity_key_file (keep one of the two)" in (
            found
        )
    else:
        assert found == [f"f{message}"]


def test_a_list_that_is_too_long_to_be_sent() -> None:
    name = ".".join(["a" * 60] * 4)
    entries = ", ".join(
        f'{{ address = "{name}:{i}", carrier = "tls", sni = "{name}" }}' for i in range(1, 20)
    )
    assert mistakes(MINIMAL_SERVER + SIGNED + f"endpoints = [{entries}]", ServerFile) == [
        "f:6: server.endpoints: more than 8192 bytes of endpoints"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f'server_identity = "{SERVER.public()}"',
            ":5: client.server_identity: this is the server's public key, and its identity is a "
            "key of its own (remove it, or put there what the server's check prints as its "
            "identity)",
        ),
        ('server_identity = "x"', ":5: client.server_identity: the identity's public key is not "
         "base64 (it is 44 characters: letters, digits, +, / and a final =)"),
        (f'server_identity = "{base64.b64encode(bytes(32)).decode()}"',
         ":5: client.server_identity: the identity's public key is all zeroes"),
        ('state_dir = "/dev/null"',
         ":5: client.state_dir: this is a file, and a folder is expected"),
    ],
)  # fmt: skip
def test_mistakes_of_a_client(text: str, message: str) -> None:
    assert mistakes(MINIMAL_CLIENT + text, ClientFile) == [f"f{message}"]


def test_identity_keys() -> None:
    key = IdentityKey.generate(lambda size: bytes(range(size)))
    assert IdentityKey.parse(key.export()) == key
    assert key.export() not in f"{key} {key!r}"
    public = key.public()
    assert public.raw == public_of(key.raw)
    assert IdentityPublicKey.parse(str(public)) == public and str(public) in repr(public)
    for cls in (IdentityKey, IdentityPublicKey):
        with pytest.raises(ValueError):
            cls(b"short")
    with pytest.raises(ConfigurationError) as caught:
        IdentityKey.parse("-----BEGIN PRIVATE KEY-----")
    assert "Ed25519 bytes in base64" in str(caught.value)
    assert "genkey --identity" in str(caught.value)


def test_endpoints_can_be_an_array_of_tables() -> None:
    text = MINIMAL_SERVER + SIGNED + '[[server.endpoints]]\naddress = "a:1"\n'
    endpoints = load(text, ServerFile).server.endpoints
    assert endpoints == (AnnouncedEndpoint(address=Destination("a", 1)),)


def test_an_announced_endpoint_shows_itself_briefly() -> None:
    plain = AnnouncedEndpoint(address=Destination("a", 1))
    assert plain.show() == '"a:1"'
