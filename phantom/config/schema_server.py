"""The tables of a server's file: ``[server]`` and ``[server.egress]``."""

from __future__ import annotations

from pathlib import Path

import attrs

from phantom.address import Destination
from phantom.config import kinds
from phantom.config import padding as padding_kinds
from phantom.config import schema_shared as shared
from phantom.config.announced import AnnouncedEndpoint
from phantom.config.identity_keys import IdentityKey
from phantom.config.keys import PrivateKey
from phantom.config.kinds import count, size
from phantom.config.places import default_state_folder
from phantom.config.setting import about
from phantom.config.values import AllowedClient, IPNetwork, ListenAddress, UnixSocket
from phantom.core.detached import DETACHED_MEMORY, DETACHED_MEMORY_PER_CLIENT, DETACHED_TIMEOUT
from phantom.core.egress import EgressRule
from phantom.core.endpoint_list import MAX_ENDPOINTS
from phantom.core.shaping import Scheme
from phantom.core.window import DEFAULT_WINDOW_LIMIT


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
        metadata=shared.private_key(
            "The server's own key, from `phantom genkey`. Each host has one of its own."
        )
    )
    private_key_file: Path | None = attrs.field(
        default=None,
        metadata=shared.private_key_file('"server.key"'),
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
            example=shared.KEY_EXAMPLE,
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
        default=shared.MAX_STREAMS,
        metadata=shared.max_streams("one session may have open"),
    )
    state_dir: Path = attrs.field(
        factory=default_state_folder,
        metadata=shared.state_dir(
            "The folder of what outlives the process, the replay filter above all; made when "
            "missing."
        ),
    )
    post_quantum: str = attrs.field(
        default="auto",
        metadata=shared.post_quantum("client"),
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
        metadata=shared.wait("How long a new connection has to prove its key."),
    )
    connect_timeout: float = attrs.field(
        default=10.0,
        metadata=shared.wait(
            "How long connecting to a destination may take, over all its addresses."
        ),
    )
    resolve_timeout: float = attrs.field(
        default=5.0,
        metadata=shared.wait("How long looking up a destination's name may take."),
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
        default=shared.SESSION_MEMORY,
        metadata=shared.session_memory("one session"),
    )
    window: int = attrs.field(
        default=DEFAULT_WINDOW_LIMIT,
        metadata=shared.WINDOW,
    )
    congestion: str = attrs.field(
        default="auto",
        metadata=shared.CONGESTION,
    )
    keepalive: float = attrs.field(
        default=shared.KEEPALIVE_INTERVAL,
        metadata=shared.KEEPALIVE,
    )
    padding: str = attrs.field(
        default="default",
        metadata=shared.padding("the sizes of the first answers on a link are blurred"),
    )
    padding_scheme: Scheme | None = attrs.field(
        default=None,
        metadata=about(
            padding_kinds.SCHEME,
            "Other figures for the default padding of all clients, pushed to them with a "
            "version: what padding hides from one censor may catch another's eye. "
            '`"3 tiny=236-290 least=300 fill=3420-3880 share=12 allowance=14336"` is version 3: '
            "a client fills what it says before it is answered up to 236 to 290 bytes if it "
            "has at most 300, up to 3420 to 3880 if it has more, and spends 12 thousandths of "
            "the traffic on it beyond 14,336 bytes a link. What is left out is as in this "
            "example. Clients use it from their next link on, and never go back to a lower "
            "version.",
            example='"1 fill=3420-3880 share=12"',
        ),
    )
    timing: str = attrs.field(
        default="off",
        metadata=shared.TIMING,
    )
    drain_timeout: float = attrs.field(
        default=5.0,
        metadata=shared.drain_timeout("server"),
    )
    detached_timeout: float = attrs.field(
        default=DETACHED_TIMEOUT,
        metadata=shared.detached_timeout(
            "How long a session waits for a new link of its client before its streams are reset."
        ),
    )
    detached_memory_per_client: int = attrs.field(
        default=DETACHED_MEMORY_PER_CLIENT,
        metadata=about(
            size(shared.MiB, 64 * 1024 * shared.MiB),
            "What one client's sessions may hold while they wait for a link.",
            unit="bytes",
        ),
    )
    detached_memory: int = attrs.field(
        default=DETACHED_MEMORY,
        metadata=about(
            size(shared.MiB, 1024 * 1024 * shared.MiB),
            "What all sessions may hold while they wait for a link.",
            unit="bytes",
        ),
    )
    egress: EgressConfig = attrs.field(factory=EgressConfig)

    @property
    def has_front(self) -> bool:
        """Whether visitors come through a front that has ended their TLS."""
        return bool(self.front_listen or self.front_listen_h2)
