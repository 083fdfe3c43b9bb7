"""The schema: every setting, its type, its default and what it is for.

These classes are the only list of settings there is.  The loader fills them, and the
templates of ``phantom init``, the output of ``phantom check`` and
``doc/configuration.md`` are generated from their metadata.  Everything in an instance is
parsed, typed and absolute: seconds are floats, sizes are bytes, paths are absolute.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path
from types import MappingProxyType

import attrs

from phantom.address import Destination
from phantom.config import kinds
from phantom.config import padding as padding_kinds
from phantom.config.announced import AnnouncedEndpoint
from phantom.config.identity_keys import IdentityKey, IdentityPublicKey
from phantom.config.keys import PrivateKey, PublicKey
from phantom.config.kinds import count, duration, size
from phantom.config.places import default_state_folder
from phantom.config.setting import about
from phantom.config.values import (
    AllowedClient,
    IPNetwork,
    ListenAddress,
    Secret,
    TLSPin,
    UnixSocket,
)
from phantom.core.egress import EgressRule
from phantom.core.endpoint_list import MAX_ENDPOINTS
from phantom.core.shaping import Scheme
from phantom.core.window import DEFAULT_WINDOW_LIMIT
from phantom.telemetry import LEVELS

KiB = 1024
MiB = 1024 * KiB

#: What every stream may hold at the least; ``max_streams`` of them must fit into
#: ``session_memory`` (DESIGN, "Streams and flow control").
LEAST_STREAM_MEMORY = 16 * KiB

_KEY_EXAMPLE = '"BASE64"'

# Settings that mean the same on both sides.
_WINDOW = about(
    size(16 * KiB, 1024 * MiB),
    "The most that one stream may send ahead of its reader. It gets 4 MiB when it is "
    "alone, and more as far as the measured bandwidth and round trip ask for it and "
    "`session_memory` allows (a third of what is free).",
    unit="bytes",
)
_CONGESTION = about(
    kinds.CONGESTION,
    "The congestion control of links, in the sending direction. `auto`: BBR where the "
    "kernel has and allows it, else the system's; on loopback never BBR, whose timers "
    "cost a third more CPU time there. `system`: the system's. Anything else is the name "
    "of one, such as `cubic`; where the kernel refuses it, a warning is logged and the "
    "system's is used.",
)
_KEEPALIVE = about(
    duration(1, 3600),
    "After about how long without traffic a link is checked; two misses and it is dead.",
    unit="seconds",
)
_TIMING = about(
    padding_kinds.TIMING,
    "Whether this side also blurs when it sends. `default` holds small records back by "
    "up to 20 ms and sends something now and then when nothing happens; `aggressive` "
    "up to 60 ms, and more often. Bulk transfers are not held back.",
)


@attrs.frozen(slots=True, kw_only=True)
class EgressConfig:
    """What clients may reach through the server.

    Loopback, private, link-local, shared, metadata, multicast and unspecified ranges and
    the server's own addresses are denied unless allowed here.
    """

    allow: tuple[EgressRule, ...] = attrs.field(
        default=(),
        metadata=about(
            kinds.many(kinds.EGRESS_RULE),
            "Destinations exempt from the built-in denials: say, a machine of your own network "
            "that clients shall reach.",
            example='["192.168.1.20/32:443"]',
        ),
    )
    deny: tuple[EgressRule, ...] = attrs.field(
        default=(),
        metadata=about(
            kinds.many(kinds.EGRESS_RULE),
            "Destinations denied besides the built-in denials: say, outgoing mail.",
            example='[":25"]',
        ),
    )


@attrs.frozen(slots=True, kw_only=True)
class ServerConfig:
    """The server: where it listens, whom it admits, how much it holds."""

    listen: tuple[ListenAddress | UnixSocket, ...] = attrs.field(
        default=(),
        metadata=about(
            kinds.many(kinds.SERVER_LISTEN, lone=True),
            "Where clients connect, or a front on this machine, through a unix socket.",
            example='"0.0.0.0:443"',
            default_text="none; this or `front_listen` is required",
        ),
    )
    front_listen: tuple[ListenAddress | UnixSocket, ...] = attrs.field(
        default=(),
        metadata=about(
            kinds.many(kinds.SERVER_LISTEN, lone=True),
            "Where a front connects that has ended the visitor's TLS: nginx's `stream` with `ssl`, "
            "or HAProxy in mode tcp, on this machine. `trusted_proxies` must have it, and it must "
            "send a PROXY header. What is inside is HTTP/1.1, unless that header says h2.",
            example='"unix:/run/phantom/front.sock"',
            default_text="none",
        ),
    )
    front_listen_h2: tuple[ListenAddress | UnixSocket, ...] = attrs.field(
        default=(),
        metadata=about(
            kinds.many(kinds.SERVER_LISTEN, lone=True),
            "The same for visitors with whom the front has agreed to HTTP/2, where its PROXY "
            "header cannot say so, as nginx's cannot. Needs `decoy_h2c`.",
            example='"unix:/run/phantom/front-h2.sock"',
            default_text="none",
        ),
    )
    private_key: PrivateKey = attrs.field(
        metadata=about(
            kinds.PRIVATE_KEY,
            "The server's own key, from `phantom genkey`. Each host has one of its own.",
            example=_KEY_EXAMPLE,
            alternative="private_key_file",
            secret=True,
        )
    )
    private_key_file: Path | None = attrs.field(
        default=None,
        metadata=about(
            kinds.PATH,
            "A file with the key, in place of `private_key`. Only its owner may have access.",
            example='"server.key"',
        ),
    )
    allowed_clients: tuple[AllowedClient, ...] = attrs.field(
        default=(),
        metadata=about(
            kinds.many(kinds.ALLOWED_CLIENT),
            "The public keys of the clients to admit. With none here and none in "
            "`allowed_clients_file`, nobody is admitted.",
            example='["BASE64 laptop"]',
        ),
    )
    allowed_clients_file: Path | None = attrs.field(
        default=None,
        metadata=about(
            kinds.PATH,
            "A file of more such keys: one a line, a name after the key if you like, comments "
            "from `#` on.",
            example='"clients.txt"',
        ),
    )
    identity_key: IdentityKey | None = attrs.field(
        default=None,
        metadata=about(
            kinds.IDENTITY_KEY,
            "The key of the server's identity, from `phantom genkey --identity`: it signs "
            "`endpoints`. All hosts of one server share it, while each has its own `private_key`.",
            example=_KEY_EXAMPLE,
            alternative="identity_key_file",
            secret=True,
        ),
    )
    identity_key_file: Path | None = attrs.field(
        default=None,
        metadata=about(
            kinds.PATH,
            "A file with that key, in place of `identity_key`. Only its owner may have access.",
            example='"identity.key"',
        ),
    )
    endpoints: tuple[AnnouncedEndpoint, ...] = attrs.field(
        default=(),
        metadata=about(
            kinds.many(kinds.ENDPOINT, most=MAX_ENDPOINTS),
            "Where clients can reach this server, on this host or on others, the best first. "
            "Clients that know the server's identity are told, remember it, and use it in place "
            "of what their own file says. Where a table names no key, carrier, name or pin, this "
            "host's key and carrier and the client's name and pin are meant.",
            example='["a.example:443", { address = "b.example:443", public_key = "BASE64" }]',
        ),
    )
    endpoints_version: int | None = attrs.field(
        default=None,
        metadata=about(
            count(1, 2**63 - 1),
            "The version of `endpoints`, to be raised with every change: clients refuse a list "
            "that is older than the one they have. Required with `endpoints`.",
            example="1",
        ),
    )
    tls_cert: Path | None = attrs.field(
        default=None,
        metadata=about(
            kinds.PATH,
            "The certificate chain in PEM, the server's own certificate first. With `tls_key`, "
            "connections are TLS; without both, they are bare TCP.",
            example='"fullchain.pem"',
        ),
    )
    tls_key: Path | None = attrs.field(
        default=None,
        metadata=about(
            kinds.PATH,
            "The private key of the certificate in PEM, without a passphrase.",
            example='"privkey.pem"',
        ),
    )
    tls_engine: str = attrs.field(
        default="openssl",
        metadata=about(
            kinds.choice("openssl", "boringssl"),
            "Which library speaks TLS. `openssl` looks like nginx; `boringssl` costs about the "
            "same, and a prober can tell it from nginx.",
        ),
    )
    tls_groups: str = attrs.field(
        default="auto",
        metadata=about(
            kinds.TLS_GROUPS,
            "Which key exchange groups `openssl` offers, and so which nginx it looks like. `auto`: "
            "those of this machine's own OpenSSL, which an nginx of its distribution uses; "
            "without one, those of OpenSSL 3.5. `library`: those of the OpenSSL inside Python's "
            "`cryptography`, which hardly any nginx has.",
            example='"X25519:P-256:X448:P-521:P-384"',
        ),
    )
    decoy: Destination | Path | None = attrs.field(
        default=None,
        metadata=about(
            kinds.DECOY,
            "What anyone who is no client gets inside TLS: a real web server (the strongest), "
            "or a folder of static files.",
            example='"http://127.0.0.1:8080"',
            default_text="a small built-in site",
        ),
    )
    decoy_h2c: Destination | None = attrs.field(
        default=None,
        metadata=about(
            kinds.HTTP_ORIGIN,
            "The same web server where it speaks HTTP/2 in the clear (h2c), as "
            "`listen 8081 http2` makes nginx do. With it, HTTP/2 is agreed to inside TLS, as most "
            "sites do; without it, only HTTP/1.1.",
            example='"http://127.0.0.1:8081"',
        ),
    )
    max_streams: int = attrs.field(
        default=1024,
        metadata=about(
            count(1, 1_000_000),
            "How many streams one session may have open at once. Times 16 KiB, it must fit into "
            "`session_memory`.",
            unit="streams",
        ),
    )
    state_dir: Path = attrs.field(
        factory=default_state_folder,
        metadata=about(
            kinds.PATH,
            "The folder of what outlives the process, the replay filter above all; made when "
            "missing.",
            example='"/var/lib/phantom"',
            default_text="`$STATE_DIRECTORY`, or `/var/lib/phantom` for root, or a folder of the "
            "user's own",
        ),
    )
    post_quantum: str = attrs.field(
        default="auto",
        metadata=about(
            kinds.choice("auto", "require", "off"),
            "Whether the keys of links also rest on ML-KEM-768, so that a quantum computer of "
            "the future does not open what is recorded today. `auto`: with every client that "
            "does it too. `require`: no link without it. `off`: never.",
        ),
    )
    workers: int = attrs.field(
        default=1,
        metadata=about(
            count(1, 64),
            "How many processes serve, all on the same ports: one uses one core. Limits over "
            "all clients are divided among them.",
            unit="processes",
        ),
    )
    trusted_proxies: tuple[IPNetwork | UnixSocket, ...] = attrs.field(
        default=(),
        metadata=about(
            kinds.many(kinds.TRUSTED_PROXY),
            "Who may send a PROXY protocol header. From anyone else it is a visitor's bytes.",
            example='["127.0.0.1/32"]',
        ),
    )
    handshake_timeout: float = attrs.field(
        default=10.0,
        metadata=about(
            duration(0.1, 300),
            "How long a new connection has to prove its key.",
            unit="seconds",
        ),
    )
    connect_timeout: float = attrs.field(
        default=10.0,
        metadata=about(
            duration(0.1, 300),
            "How long connecting to a destination may take, over all its addresses.",
            unit="seconds",
        ),
    )
    resolve_timeout: float = attrs.field(
        default=5.0,
        metadata=about(
            duration(0.1, 300),
            "How long looking up a destination's name may take.",
            unit="seconds",
        ),
    )
    max_unauthenticated: int = attrs.field(
        default=4096,
        metadata=about(
            count(1, 1_000_000),
            "How many connections that have proven no key are held at once. When full, the "
            "oldest makes room.",
            unit="connections",
        ),
    )
    max_links_per_client: int = attrs.field(
        default=4,
        metadata=about(
            count(1, 64),
            "How many live links one client key may have, over all its sessions.",
            unit="links",
        ),
    )
    max_connections: int = attrs.field(
        default=16384,
        metadata=about(
            count(1, 1_000_000),
            "How many outgoing connections there may be at once, over all clients.",
            unit="connections",
        ),
    )
    max_connections_per_client: int = attrs.field(
        default=2048,
        metadata=about(
            count(1, 1_000_000),
            "How many of them one client key may have.",
            unit="connections",
        ),
    )
    session_memory: int = attrs.field(
        default=64 * MiB,
        metadata=about(
            size(256 * KiB, 64 * 1024 * MiB),
            "What one session may hold of bytes received and credit granted.",
            unit="bytes",
        ),
    )
    window: int = attrs.field(
        default=DEFAULT_WINDOW_LIMIT,
        metadata=_WINDOW,
    )
    congestion: str = attrs.field(
        default="auto",
        metadata=_CONGESTION,
    )
    keepalive: float = attrs.field(
        default=20.0,
        metadata=_KEEPALIVE,
    )
    padding: str = attrs.field(
        default="default",
        metadata=about(
            padding_kinds.PADDING,
            "What is added to the records that this side sends. `default`: the sizes of the "
            "first answers on a link are blurred. "
            "`none`: nothing. The others are weaker: `block` fills each record up to whole "
            "blocks of 256 bytes, `random` adds 0 to 255 bytes, `power-of-two` fills up to one. "
            "Records of 16 KB and more are never padded.",
        ),
    )
    padding_scheme: Scheme | None = attrs.field(
        default=None,
        metadata=about(
            padding_kinds.SCHEME,
            "Other figures for the default padding of all clients, pushed to them with a "
            "version: what padding hides from one censor may catch another's eye. "
            '`"3 tiny=236-290 least=300 fill=3420-3880 share=18 allowance=20480"` is version 3: '
            "a client fills what it says before it is answered up to 236 to 290 bytes if it "
            "has at most 300, up to 3420 to 3880 if it has more, and spends 18 thousandths of "
            "the traffic on it beyond 20,480 bytes a link. What is left out is as in this "
            "example. Clients use it from their next link on, and never go back to a lower "
            "version.",
            example='"1 fill=3420-3880 share=18"',
        ),
    )
    timing: str = attrs.field(
        default="off",
        metadata=_TIMING,
    )
    drain_timeout: float = attrs.field(
        default=5.0,
        metadata=about(
            duration(0, 3600),
            "How long a stopping server lets open streams finish.",
            unit="seconds",
        ),
    )
    detached_timeout: float = attrs.field(
        default=300.0,
        metadata=about(
            duration(1, 86400),
            "How long a session waits for a new link of its client before its streams are reset.",
            unit="seconds",
        ),
    )
    detached_memory_per_client: int = attrs.field(
        default=64 * MiB,
        metadata=about(
            size(MiB, 64 * 1024 * MiB),
            "What one client's sessions may hold while they wait for a link.",
            unit="bytes",
        ),
    )
    detached_memory: int = attrs.field(
        default=512 * MiB,
        metadata=about(
            size(MiB, 1024 * 1024 * MiB),
            "What all sessions may hold while they wait for a link.",
            unit="bytes",
        ),
    )
    egress: EgressConfig = attrs.field(factory=EgressConfig)

    @property
    def has_front(self) -> bool:
        """Whether visitors come through a front that has ended their TLS."""
        return bool(self.front_listen or self.front_listen_h2)


def _show_user_count(users: Mapping[str, Secret]) -> str:
    return f"<{len(users)} users>"


@attrs.frozen(slots=True, kw_only=True)
class ClientConfig:
    """The client: its server, its keys, and the proxies it offers to programs."""

    server: tuple[Destination, ...] = attrs.field(
        metadata=about(
            kinds.many(kinds.SERVER, lone=True, least=1, most=MAX_ENDPOINTS),
            "The server to connect to. Several addresses or ports of the same server (the same "
            "`server_public_key`) are tried in the order of what worked last on the present "
            "network.",
            example='"example.com:443"',
        )
    )
    server_public_key: PublicKey = attrs.field(
        metadata=about(
            kinds.PUBLIC_KEY,
            "The server's public key, as `phantom check` or `phantom pubkey` prints it there.",
            example=_KEY_EXAMPLE,
        )
    )
    server_identity: IdentityPublicKey | None = attrs.field(
        default=None,
        metadata=about(
            kinds.IDENTITY,
            "The public key of the server's identity, as `phantom check` prints it there. With "
            "it the client takes and remembers the server's own list of its endpoints, so that a "
            "server can move.",
            example=_KEY_EXAMPLE,
        ),
    )
    state_dir: Path = attrs.field(
        factory=default_state_folder,
        metadata=about(
            kinds.PATH,
            "The folder where the client remembers the server's endpoints and which of them "
            "worked; made when there is something to remember.",
            example='"/var/lib/phantom"',
            default_text="`$STATE_DIRECTORY`, or `/var/lib/phantom` for root, or a folder of the "
            "user's own",
        ),
    )
    private_key: PrivateKey = attrs.field(
        metadata=about(
            kinds.PRIVATE_KEY,
            "The client's own key, from `phantom genkey`. The server must list its public key.",
            example=_KEY_EXAMPLE,
            alternative="private_key_file",
            secret=True,
        )
    )
    private_key_file: Path | None = attrs.field(
        default=None,
        metadata=about(
            kinds.PATH,
            "A file with the key, in place of `private_key`. Only its owner may have access.",
            example='"client.key"',
        ),
    )
    socks5_listen: ListenAddress | None = attrs.field(
        default=ListenAddress(IPv4Address("127.0.0.1"), 1080),
        metadata=about(kinds.LISTEN_OR_OFF, "Where programs find the SOCKS5 proxy."),
    )
    http_listen: ListenAddress | None = attrs.field(
        default=ListenAddress(IPv4Address("127.0.0.1"), 8080),
        metadata=about(
            kinds.LISTEN_OR_OFF,
            "Where programs find the HTTP proxy. The same address as `socks5_listen` makes one "
            "port serve both.",
        ),
    )
    tls_sni: str | None = attrs.field(
        default=None,
        metadata=about(
            kinds.SERVER_NAME,
            "Present: TLS, with this name in the hello and in the certificate. Absent: bare TCP.",
            example='"example.com"',
        ),
    )
    tls_profile: str = attrs.field(
        default="chrome",
        metadata=about(
            kinds.PROFILE,
            "The browser whose TLS hello is sent: the newest Chrome that the package `utls` knows, "
            "a version of it, or one of these at random each time the client starts. Other "
            "browsers cannot be had.",
        ),
    )
    tls_ech: bytes | None = attrs.field(
        default=None,
        metadata=about(
            kinds.ECH,
            "Encrypted ClientHello: the configuration of the front that the server is behind. "
            "`tls_sni` then goes encrypted, and the name in the configuration in the clear. "
            "phantom's own server cannot decrypt it.",
            example='"AEX+DQBBzQAgACA..."',
        ),
    )
    tls_ca: Path | None = attrs.field(
        default=None,
        metadata=about(
            kinds.PATH,
            "A file of certificate authorities in PEM, trusted besides the system's.",
            example='"ca.pem"',
        ),
    )
    tls_pin: TLSPin | None = attrs.field(
        default=None,
        metadata=about(
            kinds.PIN,
            "The SHA-256 digest of the server certificate's public key "
            "(SubjectPublicKeyInfo); it replaces the certificate authorities.",
            example='"sha256/BASE64"',
        ),
    )
    cipher: str = attrs.field(
        default="auto",
        metadata=about(
            kinds.choice("auto", "aesgcm", "chachapoly"),
            "The cipher of the tunnel; `auto` takes AES-GCM where the processor has "
            "instructions for it.",
        ),
    )
    post_quantum: str = attrs.field(
        default="auto",
        metadata=about(
            kinds.choice("auto", "require", "off"),
            "Whether the keys of links also rest on ML-KEM-768, so that a quantum computer of "
            "the future does not open what is recorded today. `auto`: with every server that "
            "does it too. `require`: no link without it. `off`: never.",
        ),
    )
    proxy_users: Mapping[str, Secret] = attrs.field(
        factory=lambda: MappingProxyType({}),
        repr=_show_user_count,
        metadata=about(
            kinds.USERS,
            "Who may use the proxies, by name and password. With none, any program that can "
            "connect.",
            example='{ alice = "a long password" }',
            secret=True,
        ),
    )
    open_proxy: bool = attrs.field(
        default=False,
        metadata=about(
            kinds.BOOLEAN,
            "Allow proxies that other machines can reach without a password.",
        ),
    )
    early_reply: str = attrs.field(
        default="known",
        metadata=about(
            kinds.choice("known", "always", "never"),
            "When a program hears that its connection stands. `never`: not before the server says "
            "so. `always`: at once, which saves a round trip and hides why a connection failed. "
            "`known`: at once for destinations that connected in the last 10 minutes, which only "
            "memory holds, and truthfully for all others.",
        ),
    )
    link_wait: float = attrs.field(
        default=15.0,
        metadata=about(
            duration(0, 600),
            "How long a program's request waits while there is no link to the server.",
            unit="seconds",
        ),
    )
    greeting_timeout: float = attrs.field(
        default=10.0,
        metadata=about(
            duration(0.1, 300),
            "How long a program that connected to a proxy has to say what it wants.",
            unit="seconds",
        ),
    )
    max_streams: int = attrs.field(
        default=1024,
        metadata=about(
            count(1, 1_000_000),
            "How many streams may be open at once. Times 16 KiB, it must fit into "
            "`session_memory`.",
            unit="streams",
        ),
    )
    session_memory: int = attrs.field(
        default=64 * MiB,
        metadata=about(
            size(256 * KiB, 64 * 1024 * MiB),
            "What the session may hold of bytes received and credit granted.",
            unit="bytes",
        ),
    )
    window: int = attrs.field(
        default=DEFAULT_WINDOW_LIMIT,
        metadata=_WINDOW,
    )
    congestion: str = attrs.field(
        default="auto",
        metadata=_CONGESTION,
    )
    keepalive: float = attrs.field(
        default=20.0,
        metadata=_KEEPALIVE,
    )
    handshake_timeout: float = attrs.field(
        default=10.0,
        metadata=about(
            duration(0.1, 300),
            "How long connecting to the server and proving the keys may take.",
            unit="seconds",
        ),
    )
    padding: str = attrs.field(
        default="default",
        metadata=about(
            padding_kinds.PADDING,
            "What is added to the records that this side sends. `default`: what is said before "
            "the server answers gets sizes that no TLS handshake inside the tunnel has, at 5 % "
            "of a page's bytes and under 1 % of a large transfer's. "
            "`none`: nothing. The others are weaker: `block` fills each record up to whole "
            "blocks of 256 bytes, `random` adds 0 to 255 bytes, `power-of-two` fills up to one. "
            "Records of 16 KB and more are never padded.",
        ),
    )
    timing: str = attrs.field(
        default="off",
        metadata=_TIMING,
    )
    drain_timeout: float = attrs.field(
        default=1.0,
        metadata=about(
            duration(0, 3600),
            "How long a stopping client lets open streams finish.",
            unit="seconds",
        ),
    )
    detached_timeout: float = attrs.field(
        default=300.0,
        metadata=about(
            duration(1, 86400),
            "How long open streams wait for a new link before they are reset.",
            unit="seconds",
        ),
    )
    link_max_age: float = attrs.field(
        default=1800.0,
        metadata=about(
            duration(0, 86400),
            "After about how long a link is replaced by a fresh one, without a pause, because "
            "some networks cut connections by age; 0 never.",
            unit="seconds",
        ),
    )
    tcp_prefix: bool = attrs.field(
        default=True,
        metadata=about(
            kinds.BOOLEAN,
            "Open bare TCP links with a few random printable bytes, so that they do not begin "
            "like nothing else does.",
        ),
    )


@attrs.frozen(slots=True, kw_only=True)
class LoggingConfig:
    """How much is written to the log."""

    level: str = attrs.field(
        default="info",
        metadata=about(
            kinds.choice(*LEVELS),
            "The least severe line that is written. `--log-level` on the command line overrides "
            "it.",
        ),
    )


@attrs.frozen(slots=True, kw_only=True)
class ServerFile:
    """A server's file, whole."""

    server: ServerConfig
    logging: LoggingConfig = attrs.field(factory=LoggingConfig)


@attrs.frozen(slots=True, kw_only=True)
class ClientFile:
    """A client's file, whole."""

    client: ClientConfig
    logging: LoggingConfig = attrs.field(factory=LoggingConfig)
