"""Where each platform keeps configuration and state.

Linux and the other Unixes follow the XDG Base Directory Specification 0.8; macOS has
``Library/Application Support`` and Windows ``AppData``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

#: The folder of phantom's own inside each of those places.
FOLDER = "phantom"


def _home(environ: Mapping[str, str]) -> Path:
    """Return the user's home folder; the root folder for a user who has none."""
    home = environ.get("HOME") or os.path.expanduser("~")
    return Path(home if os.path.isabs(home) else os.sep)


def _absolute(environ: Mapping[str, str], name: str) -> Path | None:
    """Return the folder a variable names; the specification has relative ones ignored."""
    value = environ.get(name, "")
    return Path(value) if os.path.isabs(value) else None


def user_config_folder(
    environ: Mapping[str, str] = os.environ, platform: str = sys.platform
) -> Path:
    """Return the folder of the user's own configuration files."""
    home = _home(environ)
    if platform == "win32":
        base = _absolute(environ, "APPDATA") or home / "AppData" / "Roaming"
    elif platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = _absolute(environ, "XDG_CONFIG_HOME") or home / ".config"
    return base / FOLDER


def system_config_folder(
    environ: Mapping[str, str] = os.environ, platform: str = sys.platform
) -> Path:
    """Return the folder of the machine's configuration files."""
    if platform == "win32":
        return (_absolute(environ, "PROGRAMDATA") or Path("C:/ProgramData")) / FOLDER
    if platform == "darwin":
        return Path("/Library/Application Support") / FOLDER
    return Path("/etc") / FOLDER


def client_config_candidates(
    environ: Mapping[str, str] = os.environ, platform: str = sys.platform
) -> list[Path]:
    """Return where a client's file may be, the first to look at first."""
    folders = [user_config_folder(environ, platform)]
    if platform != "win32":
        # Also on macOS, where many people keep it out of habit; and next to an
        # XDG_CONFIG_HOME that is set for one program only.
        folders.append(_home(environ) / ".config" / FOLDER)
    folders.append(system_config_folder(environ, platform))
    return [folder / "client.toml" for folder in dict.fromkeys(folders)]


def default_state_folder(
    environ: Mapping[str, str] = os.environ,
    platform: str = sys.platform,
    superuser: bool | None = None,
) -> Path:
    """Return where a server keeps its state unless told otherwise.

    Args:
        environ: The environment; systemd names the folder it made in STATE_DIRECTORY.
        platform: As `sys.platform`.
        superuser: Whether the process may write to the machine's own folders; None: look.
    """
    # systemd.exec(5): several folders are separated by colons; the first one is ours.
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if platform != "win32" and os.path.isabs(given):
        return Path(given)
    if superuser is None:
        superuser = hasattr(os, "geteuid") and os.geteuid() == 0
    home = _home(environ)
    if platform == "win32":
        return (_absolute(environ, "LOCALAPPDATA") or home / "AppData" / "Local") / FOLDER
    if superuser:
        return Path("/var/lib") / FOLDER
    if platform == "darwin":
        return home / "Library" / "Application Support" / FOLDER
    return (_absolute(environ, "XDG_STATE_HOME") or home / ".local" / "state") / FOLDER
