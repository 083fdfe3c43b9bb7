"""The table of a client's file: ``[client]``."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path
from types import MappingProxyType

import attrs

from phantom.address import Destination
from phantom.config import kinds
from phantom.config import schema_shared as shared
from phantom.config.identity_keys import IdentityPublicKey
from phantom.config.keys import PrivateKey, PublicKey
from phantom.config.kinds import duration
from phantom.config.places import default_state_folder
from phantom.config.setting import about
from phantom.config.values import ListenAddress, Secret, TLSPin
from phantom.core.detached import DETACHED_TIMEOUT
from phantom.core.endpoint_list import MAX_ENDPOINTS
from phantom.core.window import DEFAULT_WINDOW_LIMIT


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
            example=shared.KEY_EXAMPLE,
        )
    )
    server_identity: IdentityPublicKey | None = attrs.field(
        default=None,
        metadata=about(
            kinds.IDENTITY,
            "The public key of the server's identity, as `phantom check` prints it there. With "
            "it the client takes and remembers the server's own list of its endpoints, so that a "
            "server can move.",
            example=shared.KEY_EXAMPLE,
        ),
    )
    state_dir: Path = attrs.field(
        factory=default_state_folder,
        metadata=shared.state_dir(
            "The folder where the client remembers the server's endpoints and which of them "
            "worked; made when there is something to remember."
        ),
    )
    private_key: PrivateKey = attrs.field(
        metadata=shared.private_key(
            "The client's own key, from `phantom genkey`. The server must list its public key."
        )
    )
    private_key_file: Path | None = attrs.field(
        default=None,
        metadata=shared.private_key_file('"client.key"'),
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
        metadata=shared.post_quantum("server"),
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
        metadata=shared.wait(
            "How long a program that connected to a proxy has to say what it wants."
        ),
    )
    max_streams: int = attrs.field(
        default=shared.MAX_STREAMS,
        metadata=shared.max_streams("may be open"),
    )
    session_memory: int = attrs.field(
        default=shared.SESSION_MEMORY,
        metadata=shared.session_memory("the session"),
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
    handshake_timeout: float = attrs.field(
        default=10.0,
        metadata=shared.wait("How long connecting to the server and proving the keys may take."),
    )
    padding: str = attrs.field(
        default="default",
        metadata=shared.padding(
            "what is said before the server answers gets sizes that no TLS handshake inside the "
            "tunnel has, at 3 % of a page's bytes and under 1 % of a large transfer's"
        ),
    )
    timing: str = attrs.field(
        default="off",
        metadata=shared.TIMING,
    )
    drain_timeout: float = attrs.field(
        default=1.0,
        metadata=shared.drain_timeout("client"),
    )
    detached_timeout: float = attrs.field(
        default=DETACHED_TIMEOUT,
        metadata=shared.detached_timeout(
            "How long open streams wait for a new link before they are reset."
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
    lanes: bool = attrs.field(
        default=True,
        metadata=about(
            kinds.BOOLEAN,
            "Let bulk move to a second link where the road to the server is long and loses "
            "packets, so that keystrokes need not wait for what is sent again.",
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
