"""genkey, pubkey, check and init with identities."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from click.testing import CliRunner, Result

from phantom.app.cli.main import main
from phantom.config.identity_keys import IdentityKey, IdentityPublicKey
from phantom.config.load import load_client, load_server


def run(*args: str | Path, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(main, [str(arg) for arg in args], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_genkey_and_pubkey_belong_together(tmp_path: Path) -> None:
    made = run("genkey", "--identity").stdout
    public = run("pubkey", "--identity", stdin=made).stdout
    assert public == f"{IdentityKey.parse(made).public()}\n"
    assert public != run("pubkey", stdin=made).stdout, "another curve"
    path = tmp_path / "identity.key"
    told = run("genkey", "--identity", "--output", path).stdout
    assert told == f"{IdentityKey.parse(path.read_text()).public()}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_pubkey_of_no_identity() -> None:
    result = run("pubkey", "--identity", stdin="x")
    assert result.exit_code == 1
    assert result.stderr.startswith("phantom: standard input: the identity's private key is not")


def test_init_and_check(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "server.toml", tmp_path / "client.toml"
    made = run("init", "server", "--identity", "--output", theirs)
    assert made.exit_code == 0, made.stderr
    found = re.search("--server-public-key (.*) --server-identity (.*)$", made.stdout, re.M)
    assert found is not None
    server = load_server(theirs).server
    assert server.identity_key is not None
    assert IdentityPublicKey.parse(found[2]) == server.identity_key.public()
    identity = ("--server-identity", found[2])
    made = run(
        *("init", "client", "--output", ours, "--server", "h:443", "--server-public-key"),
        *(found[1], *identity),
    )
    assert made.exit_code == 0, made.stderr
    assert load_client(ours).client.server_identity == server.identity_key.public()
    shown = run("check", theirs).stdout
    assert f"# the server's identity: {found[2]}\n" in shown
    assert server.identity_key.export() not in shown


def test_without_the_option_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    made = run("init", "server", "--output", path)
    assert "identity" not in made.stdout
    assert load_server(path).server.identity_key is None
    assert "identity:" not in run("check", path).stdout
