"""Where configuration and state are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from phantom.config.places import (
    client_config_candidates,
    default_state_folder,
    user_config_folder,
)


@pytest.mark.parametrize(
    ("environ", "platform", "expected"),
    [
        (
            {"HOME": "/h", "XDG_CONFIG_HOME": "/x"},
            "linux",
            ["/x/phantom", "/h/.config/phantom", "/etc/phantom"],
        ),
        ({"HOME": "/h"}, "linux", ["/h/.config/phantom", "/etc/phantom"]),
        # The specification: "paths must be absolute ... consider the path invalid".
        (
            {"HOME": "/h", "XDG_CONFIG_HOME": "x"},
            "linux",
            ["/h/.config/phantom", "/etc/phantom"],
        ),
        (
            {"HOME": "/h"},
            "darwin",
            [
                "/h/Library/Application Support/phantom",
                "/h/.config/phantom",
                "/Library/Application Support/phantom",
            ],
        ),
        ({"APPDATA": "/a", "PROGRAMDATA": "/p"}, "win32", ["/a/phantom", "/p/phantom"]),
    ],
)
def test_where_a_client_file_may_be(
    environ: dict[str, str], platform: str, expected: list[str]
) -> None:
    found = client_config_candidates(environ, platform)
    assert found == [Path(folder) / "client.toml" for folder in expected]


@pytest.mark.parametrize(
    ("environ", "platform", "superuser", "expected"),
    [
        ({"STATE_DIRECTORY": "/run/a:/run/b"}, "linux", False, "/run/a"),
        ({"HOME": "/root"}, "linux", True, "/var/lib/phantom"),
        ({"HOME": "/h"}, "linux", False, "/h/.local/state/phantom"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/s"}, "linux", False, "/s/phantom"),
        ({"HOME": "/h"}, "darwin", False, "/h/Library/Application Support/phantom"),
        ({"LOCALAPPDATA": "/l"}, "win32", False, "/l/phantom"),
    ],
)
def test_where_state_is_kept(
    environ: dict[str, str], platform: str, superuser: bool, expected: str
) -> None:
    assert default_state_folder(environ, platform, superuser) == Path(expected)


def test_a_relative_home_is_not_believed() -> None:
    assert user_config_folder({"HOME": "x"}, "linux") == Path("/.config/phantom")
