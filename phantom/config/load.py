"""Reading configuration files: everything is checked, and all mistakes are told at once."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

from phantom.config.document import Document, KeyPath, dotted, read_document
from phantom.config.identity_keys import IdentityKey
from phantom.config.key_files import chmod_advice, read_private_key_file, read_secret_file
from phantom.config.kinds import ItemsError
from phantom.config.places import client_config_candidates
from phantom.config.rules import check_client, check_server, read_allowed_clients
from phantom.config.schema import ClientFile, LoggingConfig, ServerFile
from phantom.config.schema_client import ClientConfig
from phantom.config.schema_server import EgressConfig, ServerConfig
from phantom.config.setting import default_value, setting_of
from phantom.config.values import AllowedClient
from phantom.errors import ConfigurationError, ConfigurationErrors

F = TypeVar("F", ServerFile, ClientFile)

#: The class behind each table.
_TABLES: dict[str, type[Any]] = {
    "server": ServerConfig,
    "egress": EgressConfig,
    "client": ClientConfig,
    "logging": LoggingConfig,
}

_CHECKS = {ServerConfig: check_server, ClientConfig: check_client}

#: The table that makes a file the one or the other, and what such a file is called.
_MAIN_TABLE: dict[type[Any], str] = {ServerFile: "server", ClientFile: "client"}


def load_server(path: str | os.PathLike[str]) -> ServerFile:
    """Load a server's file.

    Raises:
        ConfigurationError: It cannot be read, or is no TOML.
        ConfigurationErrors: All mistakes in it.
    """
    return load_document(read_document(path), ServerFile)


def load_client(path: str | os.PathLike[str] | None = None) -> ClientFile:
    """Load a client's file.

    Args:
        path: The file; None looks where the platform keeps configuration
            (`phantom.config.places.client_config_candidates`).

    Raises:
        ConfigurationError: There is none, it cannot be read, or it is no TOML.
        ConfigurationErrors: All mistakes in it.
    """
    return load_document(read_document(find_client_file() if path is None else path), ClientFile)


def load_any(path: str | os.PathLike[str]) -> ServerFile | ClientFile:
    """Load a file of either kind, told apart by its tables.

    Raises:
        ConfigurationError: It cannot be read, or is no TOML.
        ConfigurationErrors: All mistakes in it.
    """
    document = read_document(path)
    tables = document.tables
    if "server" in tables and "client" in tables:
        error = document.error(
            ("client",), "[server] and [client] are in one file", "give each a file of its own"
        )
        raise ConfigurationErrors([error])
    if "client" in tables:
        return load_document(document, ClientFile)
    if "server" in tables:
        return load_document(document, ServerFile)
    guess = _nearest(list(tables), ["server", "client"])
    raise ConfigurationErrors(
        [
            document.error(
                (guess[0],) if guess else (),
                "neither a server's file nor a client's",
                f"did you mean [{guess[1]}]?" if guess else "it needs a table [server] or [client]",
            )
        ]
    )


def find_client_file(environ: Mapping[str, str] = os.environ) -> str:
    """Return the first client's file there is.

    Raises:
        ConfigurationError: There is none.
    """
    candidates = [str(path) for path in client_config_candidates(environ)]
    for path in candidates:
        if os.path.exists(path):
            return path
    raise ConfigurationError(
        f"no client configuration found; looked for {' and '.join(candidates)}",
        fix='name one with --config, or make one with "phantom init client"',
    )


def load_document(document: Document, kind: type[F]) -> F:
    """Check a document against the schema and return what it says.

    Args:
        document: From `read_document` or `parse_document`.
        kind: `ServerFile` or `ClientFile`.

    Raises:
        ConfigurationErrors: All mistakes, in the order of the file.
    """
    wanted = _MAIN_TABLE[kind]
    other = "client" if wanted == "server" else "server"
    tables = document.tables
    if wanted not in tables and isinstance(tables.get(other), dict):
        error = document.error((other,), f"did you mean [{wanted}]? this is a {other} file")
        raise ConfigurationErrors([error])
    reading = _Reading(document, wanted)
    values = reading.table(kind, tables, ())
    if reading.errors:
        # A stable sort: mistakes without a line come first, and those of one line (or of
        # another file) stay in the order of the schema.
        raise ConfigurationErrors(
            sorted(reading.errors, key=lambda e: (e.file != document.name, e.line or 0))
        )
    return kind(**values)


class _Reading:
    """One pass over one document.

    Args:
        document: What is read.
        wanted: Its main table, "server" or "client".

    Attributes:
        errors: The mistakes so far.
    """

    def __init__(self, document: Document, wanted: str) -> None:
        self.errors: list[ConfigurationError] = []
        self._document = document
        self._wanted = wanted

    def table(self, cls: type[Any], found: dict[str, Any], path: KeyPath) -> dict[str, Any]:
        """Read a table and return the arguments for `cls`; mistakes are left out."""
        fields = {field.name: field for field in attrs.fields(cls)}
        for name, value in found.items():
            if name not in fields:
                self._unknown(name, value, list(fields), path)
        values: dict[str, Any] = {}
        for name, field in fields.items():
            here = (*path, name)
            setting = setting_of(field)
            if setting is None:
                self._nested(name, found, here, values)
            elif name in found:
                try:
                    values[name] = setting.kind.parse(found[name], self._document.folder)
                except ItemsError as errors:
                    for at, error in errors.items:
                        self._report((*here, at), error.problem, error.fix)
                except ConfigurationError as error:
                    self._report(here, error.problem, error.fix)
                if setting.secret and found[name] and self._document.mode & 0o007:
                    self._report(
                        here,
                        "everyone can read this file, and it holds a secret",
                        chmod_advice(self._document.name),
                    )
                if setting.alternative in found:
                    self._report(here, f"given with {setting.alternative}", "keep one of the two")
            elif field.default is not attrs.NOTHING:
                values[name] = default_value(field)
            elif setting.alternative not in found:
                self._missing(name, setting.alternative, here)
        self._read_named_files(values, path)
        if cls in _CHECKS:
            _CHECKS[cls](values, lambda key, problem, fix: self._report((*path, key), problem, fix))
        return values

    def _report(self, path: KeyPath, problem: str, fix: str | None = None) -> None:
        self.errors.append(self._document.error(path, problem, fix))

    def _nested(
        self, name: str, found: dict[str, Any], path: KeyPath, values: dict[str, Any]
    ) -> None:
        inner = found.get(name, {})
        if name == self._wanted and name not in found:
            self._report((), f"the table [{name}] is missing", 'see "phantom init --help"')
        elif not isinstance(inner, dict):
            self._report(path, f"expected a table: a line [{dotted(path)}] and its keys below")
        else:
            cls = _TABLES[name]
            before = len(self.errors)
            arguments = self.table(cls, inner, path)
            if len(self.errors) == before:
                values[name] = cls(**arguments)

    def _missing(self, name: str, alternative: str, path: KeyPath) -> None:
        fix = None
        if alternative:
            fix = f'or set {alternative}; "phantom genkey" makes a key'
        self._report(path, "missing", fix)

    def _unknown(self, name: str, value: object, known: list[str], path: KeyPath) -> None:
        """Report an unknown key, with the place or the spelling that was probably meant."""
        homes = [table for table, cls in _TABLES.items() if name in attrs.fields_dict(cls)]
        fix = None
        if not path and name in _MAIN_TABLE.values() and isinstance(value, dict):
            fix = "a server and a client have a file each"
        elif not path and self._wanted in homes:
            fix = f"move it below the line [{self._wanted}]"
        elif homes:
            fix = f"it belongs to [{'server.egress' if homes[0] == 'egress' else homes[0]}]"
        elif guess := _nearest([name], known):
            fix = f"did you mean {guess[1]}?"
        self._report((*path, name), "unknown key" if path else "unknown table or key", fix)

    def _read_named_files(self, values: dict[str, Any], path: KeyPath) -> None:
        """Read the files that stand for, or add to, another key's value."""
        key_file = values.get("private_key_file")
        if key_file is not None and "private_key" not in values:
            try:
                values["private_key"] = read_private_key_file(key_file)
            except ConfigurationError as error:
                self._report((*path, "private_key_file"), f"{key_file}: {error.problem}", error.fix)
        identity_file = values.get("identity_key_file")
        if identity_file is not None and values.get("identity_key") is None:
            try:
                values["identity_key"] = read_secret_file(identity_file, IdentityKey.parse)
            except ConfigurationError as error:
                problem = f"{identity_file}: {error.problem}"
                self._report((*path, "identity_key_file"), problem, error.fix)
        clients_file = values.get("allowed_clients_file")
        if clients_file is None:
            return
        try:
            clients, errors = read_allowed_clients(clients_file)
        except ConfigurationError as error:
            self._report(
                (*path, "allowed_clients_file"), f"{clients_file}: {error.problem}", error.fix
            )
            return
        self.errors.extend(errors)
        listed: tuple[AllowedClient, ...] = values.get("allowed_clients", ())
        keys = {client.key for client in listed}
        values["allowed_clients"] = (*listed, *(c for c in clients if c.key not in keys))


def _nearest(names: list[str], known: list[str]) -> tuple[str, str] | None:
    """Return the first of `names` that resembles one of `known`, and that one."""
    for name in names:
        if close := difflib.get_close_matches(name, known, n=1):
            return name, close[0]
    return None
