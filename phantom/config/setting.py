"""What the schema knows about a key besides its type, kept in the metadata of its field."""

from __future__ import annotations

from typing import Any

import attrs

from phantom.config.kinds import Kind

_KEY = "phantom.setting"


@attrs.frozen(slots=True, kw_only=True)
class Setting:
    """What the schema knows about one key besides its type.

    Attributes:
        kind: How it is written, read and shown.
        doc: One or two sentences for the operator.
        unit: What a bare number counts; empty where nothing is counted.
        example: A value in TOML for templates, where the default is no good example.
        default_text: The default in words, where there is no single value.
        alternative: The key that can be given in place of this one.
        secret: Whether the value must not be in a file that everyone can read.
    """

    kind: Kind[Any]
    doc: str
    unit: str = ""
    example: str = ""
    default_text: str = ""
    alternative: str = ""
    secret: bool = False


def about(kind: Kind[Any], doc: str, **more: Any) -> dict[str, Setting]:
    """Return the metadata of a field; the arguments are those of `Setting`."""
    return {_KEY: Setting(kind=kind, doc=doc, **more)}


def setting_of(field: attrs.Attribute[Any]) -> Setting | None:
    """Return what the schema says about a field; None for a nested table."""
    found = field.metadata.get(_KEY)
    return found if isinstance(found, Setting) else None


def settings_of(cls: type[Any]) -> list[tuple[attrs.Attribute[Any], Setting]]:
    """Return the fields of a table's class that are settings, in order."""
    pairs = ((field, setting_of(field)) for field in attrs.fields(cls))
    return [(field, setting) for field, setting in pairs if setting is not None]


def default_value(field: attrs.Attribute[Any]) -> Any:
    """Return the default of a field that has one."""
    make = getattr(field.default, "factory", None)
    return field.default if make is None else make()


def default_of(field: attrs.Attribute[Any], setting: Setting) -> str | None:
    """Return a setting's default in TOML; None where there is no single one."""
    if setting.default_text or field.default is attrs.NOTHING or field.default is None:
        return None
    return setting.kind.show(default_value(field))
