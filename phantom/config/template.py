"""Commented configuration files, written from the schema."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import attrs

from phantom.config.schema import (
    ClientConfig,
    EgressConfig,
    LoggingConfig,
    ServerConfig,
    Setting,
    setting_of,
)

#: Columns of a comment, so that a terminal of 80 shows it whole.
_WIDTH = 78


def server_template(values: Mapping[str, str]) -> str:
    """Return a server's file.

    Args:
        values: What is set in ``[server]``: keys, and their values in TOML.  Every other
            key stands there as a comment with its default or an example.
    """
    return _file(
        "phantom server",
        {"server": (ServerConfig, values), "server.egress": (EgressConfig, {})},
    )


def client_template(values: Mapping[str, str]) -> str:
    """Return a client's file.

    Args:
        values: As for `server_template`, for ``[client]``.
    """
    return _file("phantom client", {"client": (ClientConfig, values)})


def _file(title: str, tables: Mapping[str, tuple[type[Any], Mapping[str, str]]]) -> str:
    parts = [
        f"# {title} configuration (TOML).  Every key is explained in doc/configuration.md;\n"
        "# a line that begins with # and a key shows a default, or an example where there\n"
        '# is none.  "phantom check FILE" tells whether the file is right.\n'
    ]
    for name, (cls, values) in {**tables, "logging": (LoggingConfig, {})}.items():
        parts.append(f"[{name}]\n")
        parts.extend(_entry(field, setting, values) for field, setting in settings_of(cls))
    return "\n".join(parts)


def settings_of(cls: type[Any]) -> list[tuple[attrs.Attribute[Any], Setting]]:
    """Return the fields of a table's class that are settings, in order."""
    pairs = ((field, setting_of(field)) for field in attrs.fields(cls))
    return [(field, setting) for field, setting in pairs if setting is not None]


def default_of(field: attrs.Attribute[Any], setting: Setting) -> str | None:
    """Return a setting's default in TOML; None where there is no single one."""
    if setting.default_text or field.default is attrs.NOTHING or field.default is None:
        return None
    default = field.default
    value = default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]
    return setting.kind.show(value)


def _entry(field: attrs.Attribute[Any], setting: Setting, values: Mapping[str, str]) -> str:
    doc = setting.doc.replace("`", "") + (f" In {setting.unit}." if setting.unit else "")
    comment = textwrap.fill(doc, _WIDTH, initial_indent="# ", subsequent_indent="# ")
    if field.name in values:
        return f"{comment}\n{field.name} = {values[field.name]}\n"
    shown = setting.example or default_of(field, setting)
    return f"{comment}\n#{field.name} = {shown}\n"
