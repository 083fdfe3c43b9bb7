"""Secrets in configuration files: who may read them, and that nothing shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.config_files import (
    CLIENT_KEY,
    MINIMAL_CLIENT,
    MINIMAL_SERVER,
    OTHER,
    SECRET,
    SERVER,
    mistakes,
    write,
)

from phantom.config.load import load_client, load_server
from phantom.errors import ConfigurationError


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
