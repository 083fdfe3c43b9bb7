"""The reference of all settings, ``doc/configuration.md``, written from the schema.

Run ``python -m phantom.config.reference > doc/configuration.md``.
"""

from __future__ import annotations

import sys
from typing import Any

import attrs

from phantom.config.schema import LoggingConfig
from phantom.config.schema_client import ClientConfig
from phantom.config.schema_server import EgressConfig, ServerConfig
from phantom.config.setting import Setting, default_of, settings_of

_INTRODUCTION = """\
# Configuration

<!-- Generated: python -m phantom.config.reference > doc/configuration.md -->

A server and a client have a file each, in [TOML](https://toml.io/en/v1.0.0). `phantom init
server` and `phantom init client` write one with fresh keys and every key explained; `phantom
check FILE` tells whether a file is right and what is in effect. A mistake is told with file,
line and key, all of them at once.

- The server reads the file named by `--config`. The client does too; without the option it
  takes the first of `$XDG_CONFIG_HOME/phantom/client.toml` (`~/.config` unless that is set),
  `~/.config/phantom/client.toml` and `/etc/phantom/client.toml`; on macOS
  `~/Library/Application Support/phantom` and `/Library/Application Support/phantom`, on Windows
  `%APPDATA%\\phantom` and `%PROGRAMDATA%\\phantom` take the place of the first and the last.
- A relative path starts from the folder of the file it is written in; `~/` is the home folder.
- Keys are X25519, 32 bytes in base64. `phantom genkey` makes a private key; `phantom pubkey`
  reads one and prints its public key. With `--identity` both deal with the Ed25519 key of a
  server's identity instead.
- A file that holds a secret must not be readable by everyone (`chmod 600 FILE`), and a file
  that is a private key by nobody but its owner.

## Examples

A server on bare TCP:

```toml
[server]
listen = "0.0.0.0:443"
private_key_file = "server.key"
allowed_clients_file = "clients.txt"
```

A server inside TLS, in front of a web server that answers everyone who is no client:

```toml
[server]
listen = ["0.0.0.0:443", "[::]:443"]
private_key_file = "server.key"
allowed_clients_file = "clients.txt"
tls_cert = "fullchain.pem"
tls_key = "privkey.pem"
decoy = "http://127.0.0.1:8080"
max_streams = 2048
window = "8 MiB"

[server.egress]
allow = ["192.168.1.20/32:443"]
deny = [":25"]

[logging]
level = "warn"
```

A client of it, with one port for SOCKS5 and HTTP, and a password:

```toml
[client]
server = "example.com:443"
server_public_key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
private_key_file = "client.key"
socks5_listen = "127.0.0.1:1080"
http_listen = "127.0.0.1:1080"
tls_sni = "example.com"

[client.proxy_users]
alice = "correct horse battery staple"
```

`clients.txt` lists who is admitted:

```
# key                                        name
hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo= laptop
```
"""


def reference() -> str:
    """Return the text of ``doc/configuration.md``."""
    parts = [_INTRODUCTION]
    for name, cls in (
        ("server", ServerConfig),
        ("server.egress", EgressConfig),
        ("client", ClientConfig),
        ("logging", LoggingConfig),
    ):
        parts.append(f"## [{name}]\n\n{_summary(cls)}\n")
        parts.extend(_entry(field, setting) for field, setting in settings_of(cls))
    return "\n".join(parts)


def _summary(cls: type[Any]) -> str:
    """Return a class's docstring, its paragraphs unindented."""
    lines = (line.strip() for line in (cls.__doc__ or "").strip().splitlines())
    return "\n".join(lines)


def _entry(field: attrs.Attribute[Any], setting: Setting) -> str:
    if setting.default_text:
        default = setting.default_text
    elif field.default is attrs.NOTHING:
        default = (
            f"none; this or `{setting.alternative}` is required"
            if (setting.alternative)
            else "none; required"
        )
    elif field.default is None:
        default = "none"
    else:
        default = f"`{default_of(field, setting)}`"
        default += f" {setting.unit}" if setting.unit and '"' not in default else ""
    lines = [f"### {field.name}", "", setting.doc, "", f"- Written as {setting.kind.written}."]
    lines.append(f"- Default: {default}.")
    if setting.example:
        lines.append(f"- Example: `{field.name} = {setting.example}`")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
