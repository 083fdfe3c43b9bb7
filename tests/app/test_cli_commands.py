"""genkey, pubkey, check and init."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from phantom.app.cli.main import main
from phantom.config.keys import PrivateKey
from phantom.config.load import load_client, load_server

SERVER = PrivateKey(bytes(range(1, 33)))
CLIENT = PrivateKey(bytes(range(2, 34)))


def run(*args: str | Path, stdin: str | bytes | None = None) -> Result:
    result = CliRunner().invoke(main, [str(arg) for arg in args], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


# -- genkey, pubkey ---------------------------------------------------------------------


def test_genkey_makes_a_new_key_each_time() -> None:
    first, second = run("genkey"), run("genkey")
    assert first.exit_code == 0
    assert first.stdout != second.stdout
    assert len(PrivateKey.parse(first.stdout).raw) == 32
    assert first.stdout == PrivateKey.parse(first.stdout).export() + "\n"


def test_pubkey_reads_what_genkey_prints() -> None:
    result = run("pubkey", stdin=SERVER.export() + "\n")
    assert (result.exit_code, result.stdout) == (0, f"{SERVER.public()}\n")


def test_genkey_writes_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    result = run("genkey", "--output", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert result.stdout == f"{PrivateKey.parse(path.read_text()).public()}\n"
    again = run("genkey", "--output", path)
    assert again.exit_code == 1
    assert again.stderr == (
        f"phantom: {path}: already exists, and is not overwritten "
        "(move it away or choose another)\n"
    )


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        ("", "standard input: the private key is empty"),
        (
            SERVER.export()[:-1],
            'standard input: the private key lacks its last character, "=" '
            "(copy all 44 characters)",
        ),
        (
            SERVER.raw.hex(),
            "standard input: the private key is written in hexadecimal, and base64 is expected "
            "(convert it with: xxd -r -p | base64)",
        ),
        (
            b"\xff" * 44,
            "standard input: the private key is not base64 "
            "(it is 44 characters: letters, digits, +, / and a final =)",
        ),
        ("x" * 5000, "standard input: more than 4096 bytes, and a key has 44 characters"),
    ],
)
def test_pubkey_of_no_key(stdin: str | bytes, message: str) -> None:
    result = run("pubkey", stdin=stdin)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"phantom: {message}\n")


# -- check ------------------------------------------------------------------------------


def test_check_shows_what_is_in_effect_and_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    path.write_text(
        f'[client]\nserver = "h:443"\nserver_public_key = "{SERVER.public()}"\n'
        f'private_key = "{CLIENT.export()}"\nwindow = 8388608\n'
        '[client.proxy_users]\nalice = "correct horse"\n'
    )
    path.chmod(0o600)
    result = run("check", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"# the client's public key: {CLIENT.public()}\n" in result.stdout
    assert '\nserver = ["h:443"]\n' in result.stdout
    assert '\nwindow = "8 MiB"\n' in result.stdout
    assert '\nproxy_users = {"alice" = "(hidden)"}\n' in result.stdout
    assert CLIENT.export() not in result.stdout
    assert "correct horse" not in result.stdout
    quiet = run("check", "--quiet", path)
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_check_tells_each_mistake_on_a_line(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text("[server]\nlisten = 5\nport = 1\n")
    result = run("check", path)
    assert (result.exit_code, result.stdout) == (1, "")
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"phantom: {path}:") for line in lines)


@pytest.mark.parametrize("name", ["none.toml", "."])
def test_check_of_what_is_no_file(name: str, tmp_path: Path) -> None:
    result = run("check", tmp_path / name)
    assert result.exit_code == 1
    assert re.fullmatch(r"phantom: [^\n]+\n", result.stderr)


def test_check_warns_of_a_server_that_admits_nobody(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text(f'[server]\nlisten = ":0"\nprivate_key = "{SERVER.export()}"\n')
    path.chmod(0o600)
    result = run("check", path)
    assert result.exit_code == 0
    assert "warning: nobody is admitted" in result.stderr


# -- init -------------------------------------------------------------------------------


def test_init_makes_two_files_that_belong_together(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "new" / "server.toml", tmp_path / "client.toml"
    made = run(
        "init", "server", "--output", theirs, "--listen", "127.0.0.1:0", "--listen", "[::1]:0"
    )
    assert (made.exit_code, made.stderr) == (0, "")
    key = re.search(r"the server's public key: (\S+)", made.stdout)
    assert key is not None
    made = run(
        "init",
        "client",
        "-o",
        ours,
        "--server",
        "example.com:443",
        "--server-public-key",
        key[1],
        "--tls-sni",
        "example.com",
        "--socks5-listen",
        "127.0.0.1:0",
    )
    assert (made.exit_code, made.stderr) == (0, "")
    client = load_client(ours).client
    server = load_server(theirs).server
    assert client.server_public_key == server.private_key.public()
    assert f"the client's public key: {client.private_key.public()}\n" in made.stdout
    assert client.private_key.export() not in made.output
    assert [str(one) for one in server.listen] == ["127.0.0.1:0", "[::1]:0"]
    for path in (theirs, ours):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert run("check", path).exit_code == 0
    assert stat.S_IMODE(theirs.parent.stat().st_mode) == 0o700


def test_init_server_with_clients_and_a_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "etc" / "server.toml"
    made = run(
        "init",
        "server",
        "-o",
        path,
        "--allow-client",
        f"{CLIENT.public()} laptop",
        "--state-dir",
        "state",
    )
    assert made.exit_code == 0, made.output
    server = load_server(path).server
    assert [(one.key, one.name) for one in server.allowed_clients] == [(CLIENT.public(), "laptop")]
    assert [str(one) for one in server.listen] == ["0.0.0.0:443"]
    # Relative to where the command ran, not to where the file is.
    assert server.state_dir == tmp_path / "state"
    assert "until then nobody is admitted" not in made.stdout


def test_init_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text("mine")
    made = run("init", "server", "--output", path)
    assert (made.exit_code, made.stdout) == (1, "")
    assert made.stderr == (
        f"phantom: {path}: already exists, and is not overwritten "
        "(move it away or choose another)\n"
    )
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["server.toml"]


def test_init_names_the_options_that_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "new" / "server.toml"
    made = run(
        "init",
        "server",
        "-o",
        path,
        "--listen",
        "x",
        "--allow-client",
        SERVER.raw.hex(),
        "--tls-cert",
        tmp_path / "none.pem",
    )
    assert made.exit_code == 1
    assert made.stderr.splitlines() == [
        "phantom: --listen: expected address:port "
        '(for example "127.0.0.1:1080", "[::1]:1080" or ":443")',
        "phantom: --allow-client: the public key is written in hexadecimal, and base64 is "
        "expected (convert it with: xxd -r -p | base64)",
        "phantom: --tls-cert: tls_key is missing (set tls_key too, or neither for bare TCP)",
        f"phantom: --tls-cert: {tmp_path}/none.pem: no such file",
    ]
    assert not path.parent.exists()


def test_init_quotes_what_it_is_given(tmp_path: Path) -> None:
    made = run(
        "init",
        "client",
        "-o",
        tmp_path / "c",
        "--server",
        'h:1"\nopen_proxy = true #',
        "--server-public-key",
        str(SERVER.public()),
    )
    assert made.exit_code == 1
    assert made.stderr.startswith("phantom: --server: ")


def test_init_in_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = run("init", "server", "-o", tmp_path / "file" / "server.toml")
    assert made.exit_code == 1
    assert re.fullmatch(r"phantom: [^\n]+: the folder cannot be made: [^\n]+\n", made.stderr)


@pytest.mark.parametrize(
    "command",
    [
        ("genkey",),
        ("init", "server"),
        ("init", "client", "--server", "h:1", "--server-public-key", str(SERVER.public())),
    ],
)
def test_an_empty_output_is_not_the_default(command: tuple[str, ...]) -> None:
    made = run(*command, "--output", "")
    assert (made.exit_code, made.stdout) == (1, "")
    assert made.stderr == "phantom: .: cannot be written: not a possible file name\n"


def test_init_writes_where_the_client_looks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    made = run("init", "client", "--server", "h:1", "--server-public-key", str(SERVER.public()))
    assert made.exit_code == 0, made.output
    assert load_client(None).client.server[0].port == 1
    assert "twistd -n phantom-client\n" in made.stdout
