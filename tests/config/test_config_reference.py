"""The generated documents: the reference, its examples, and the templates."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from phantom.config.document import parse_document
from phantom.config.keys import PrivateKey
from phantom.config.load import load_document
from phantom.config.reference import reference
from phantom.config.schema import ClientFile, LoggingConfig, ServerFile
from phantom.config.schema_client import ClientConfig
from phantom.config.schema_server import EgressConfig, ServerConfig
from phantom.config.setting import setting_of
from phantom.config.template import client_template, effective, server_template

DOCUMENT = Path(__file__).parents[2] / "doc" / "configuration.md"
KEY = PrivateKey(bytes(range(1, 33)))
OTHER = PrivateKey(bytes(range(2, 34))).public()


def test_the_committed_reference_is_what_the_schema_says() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == reference(), (
        "run: python -m phantom.config.reference > doc/configuration.md"
    )


@pytest.mark.parametrize("cls", [ServerConfig, EgressConfig, ClientConfig, LoggingConfig])
def test_every_setting_is_in_the_reference(cls) -> None:
    text = reference()
    for field in attrs.fields(cls):
        if setting_of(field) is not None:
            assert f"### {field.name}\n" in text


def snippets() -> list[str]:
    return re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("text", snippets())
def test_every_example_in_the_reference_loads(text: str, tmp_path: Path, monkeypatch) -> None:
    for name in ("server.key", "client.key"):
        (tmp_path / name).write_text(KEY.export())
        (tmp_path / name).chmod(0o600)
    listed = re.findall(r"```\n(# key.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "clients.txt").write_text(listed[0])
    # Certificates are tested in test_config_server_mistakes.
    monkeypatch.setattr("phantom.config.rules._check_pair", lambda *_args: None)
    kind = ServerFile if "[server]" in text else ClientFile
    loaded = load_document(parse_document(text, "example", tmp_path), kind)
    if isinstance(loaded, ServerFile):
        assert [client.name for client in loaded.server.allowed_clients] == ["laptop"]


def test_there_are_examples() -> None:
    assert len(snippets()) == 3


MINIMAL = {
    "server": {"listen": '":0"', "private_key": f'"{KEY.export()}"'},
    "client": {
        "server": '"h:1"',
        "server_public_key": f'"{OTHER}"',
        "private_key": f'"{KEY.export()}"',
    },
}


@pytest.mark.parametrize(
    ("name", "template", "kind"),
    [("server", server_template, ServerFile), ("client", client_template, ClientFile)],
)
def test_a_template_is_a_valid_file_that_names_every_setting(name: str, template, kind) -> None:
    text = template(MINIMAL[name])
    loaded = load_document(parse_document(text, "f", Path("/")), kind)
    table = getattr(loaded, name)
    tables = [table, loaded.logging, *([table.egress] if name == "server" else [])]
    for one in tables:
        for field in attrs.fields(type(one)):
            if setting_of(field) is not None:
                assert re.search(f"^#?{field.name} = ", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("name", "template", "kind"),
    [("server", server_template, ServerFile), ("client", client_template, ClientFile)],
)
def test_each_default_that_a_template_shows_is_the_default(name: str, template, kind) -> None:
    text = template(MINIMAL[name])
    plain = load_document(parse_document(text, "f", Path("/")), kind)
    shown = [line[1:] for line in text.splitlines() if re.match(r"#\w+ = ", line)]
    examples = {
        field.name
        for cls in (ServerConfig, ClientConfig, EgressConfig)
        for field in attrs.fields(cls)
        if (setting := setting_of(field)) and setting.example
    }
    defaults = [
        line for line in shown if line.split(" ")[0] not in examples and "level" not in line
    ]
    assert len(defaults) > 8
    with_defaults = text.replace(f"[{name}]\n", f"[{name}]\n" + "\n".join(defaults) + "\n", 1)
    assert load_document(parse_document(with_defaults, "f", Path("/")), kind) == plain


@pytest.mark.parametrize(
    ("name", "template", "kind"),
    [("server", server_template, ServerFile), ("client", client_template, ClientFile)],
)
def test_the_settings_in_effect_read_back_as_the_same(name: str, template, kind) -> None:
    loaded = load_document(parse_document(template(MINIMAL[name]), "f", Path("/")), kind)
    text = effective(getattr(loaded, name), name) + "\n\n" + effective(loaded.logging, "logging")
    assert KEY.export() not in text
    whole = text.replace("(hidden)", KEY.export())
    assert load_document(parse_document(whole, "f", Path("/")), kind) == loaded
