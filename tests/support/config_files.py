"""Configuration files to load, and the mistakes that loading one tells of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from phantom.config.keys import PrivateKey
from phantom.errors import ConfigurationErrors

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


def mistakes(load_it: Callable[[Path], object], path: Path) -> list[str]:
    with pytest.raises(ConfigurationErrors) as caught:
        load_it(path)
    assert str(caught.value) == "\n".join(str(error) for error in caught.value.errors)
    return str(caught.value).split("\n")
