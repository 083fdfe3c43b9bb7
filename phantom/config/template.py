"""Configuration files written from the schema: commented ones, and the settings in effect."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import attrs

from phantom.config.schema import LoggingConfig
from phantom.config.schema_client import ClientConfig
from phantom.config.schema_server import EgressConfig, ServerConfig
from phantom.config.setting import Setting, default_of, default_value, setting_of, settings_of

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


def effective(table: Any, name: str) -> str:
    """Return the settings of a loaded table in TOML, secrets hidden, one a line.

    Args:
        table: An instance of one of the schema's classes.
        name: What the table is called.  Tables in it follow it, as ``[name.inner]``.
    """
    lines = [f"[{name}]"]
    inner = []
    for field in attrs.fields(type(table)):
        value = getattr(table, field.name)
        setting = setting_of(field)
        if setting is None:
            inner.append(effective(value, f"{name}.{field.name}"))
        elif value is not None or default_value(field) is not None:
            lines.append(f"{field.name} = {setting.kind.show(value)}")
        else:
            lines.append(f"# {field.name} is not set")
    return "\n\n".join(["\n".join(lines), *inner])


def _file(title: str, tables: Mapping[str, tuple[type[Any], Mapping[str, str]]]) -> str:
    parts = [
        f"# {title} configuration (TOML).  Every key is explained in doc/configuration.md;\n"
        "# a line that begins with # and a key shows a default, or an example where there\n"
        '# is none.  "phantom check FILE" tells whether the file is right.\n'
    ]
    every: dict[str, tuple[type[Any], Mapping[str, str]]]
    every = {**tables, "logging": (LoggingConfig, {})}
    for name, (cls, values) in every.items():
        parts.append(f"[{name}]\n")
        parts.extend(_entry(field, setting, values) for field, setting in settings_of(cls))
    return "\n".join(parts)


def _entry(field: attrs.Attribute[Any], setting: Setting, values: Mapping[str, str]) -> str:
    doc = setting.doc.replace("`", "") + (f" In {setting.unit}." if setting.unit else "")
    comment = textwrap.fill(doc, _WIDTH, initial_indent="# ", subsequent_indent="# ")
    if field.name in values:
        return f"{comment}\n{field.name} = {values[field.name]}\n"
    shown = setting.example or default_of(field, setting)
    return f"{comment}\n#{field.name} = {shown}\n"
