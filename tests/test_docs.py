"""What the documentation shows works.

- Every ``toml`` block is a whole file that loads.  ``toml server`` and ``toml client`` mark
  fragments: what follows a minimal table of that name.  Placeholders stand for keys
  (`KEYS`); the files that examples name exist beside them (the `folder` fixture).
- Every ``phantom`` and ``twistd phantom-...`` command in ``sh`` and ``console`` blocks and in
  code spans exists, with its options.
- Every relative link leads to a file, and to a heading where it names one.
"""

from __future__ import annotations

import base64
import datetime
import functools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from phantom.config.load import load_any

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    {path for glob in ("*.md", "doc/**/*.md", "newsfragments/*.md") for path in ROOT.glob(glob)}
)


def key_text(number: int, *, public: bool) -> str:
    key = X25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    raw = key.public_key().public_bytes_raw() if public else key.private_bytes_raw()
    return base64.b64encode(raw).decode()


#: What the documentation writes for keys.  "BASE64" stands for any key.
KEYS = {
    "SERVER_PRIVATE_KEY": key_text(1, public=False),
    "CLIENT_PRIVATE_KEY": key_text(2, public=False),
    "SERVER_PUBLIC_KEY": key_text(1, public=True),
    "CLIENT_PUBLIC_KEY": key_text(2, public=True),
    "IDENTITY_PUBLIC_KEY": key_text(4, public=True),
    "BASE64": key_text(3, public=False),
}

#: What a fragment follows; it may go on in the same table.
BASES = {
    "server": '[server]\nlisten = "0.0.0.0:443"\nprivate_key = "SERVER_PRIVATE_KEY"\n',
    "client": '[client]\nserver = "a.example:443"\nserver_public_key = "SERVER_PUBLIC_KEY"\n'
    'private_key = "CLIENT_PRIVATE_KEY"\n',
}

COMMAND_NAMES = ("phantom", "twistd")


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced code blocks of a page."""
    opening: tuple[int, str, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = re.match(r"\s*(```+)(.*)$", line)
        if opening is None and fence:
            opening, lines = (number, fence[2].strip(), fence[1]), []
        elif opening and fence and fence[1] == opening[2] and not fence[2].strip():
            yield Block(page, opening[0], opening[1], "\n".join(lines) + "\n")
            opening = None
        else:
            lines.append(line)
    assert opening is None, f"{page}:{opening}: a code block without end"


def place(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def prose(page: Path) -> str:
    """Return a page without its code blocks, which hold no links."""
    return re.sub(r"(?ms)^\s*(```+).*?^\s*\1\s*$", "", page.read_text())


BLOCKS = [block for page in PAGES for block in blocks(page)]
TOML = [block for block in BLOCKS if block.language.split()[:1] == ["toml"]]


@pytest.fixture(scope="session")
def certificate() -> tuple[bytes, bytes]:
    """Return a self-signed certificate and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vpn.example.com")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return made.public_bytes(serialization.Encoding.PEM), pem


@pytest.fixture
def folder(tmp_path: Path, certificate: tuple[bytes, bytes]) -> Path:
    """Return a folder with the files that examples name."""
    cert, key = certificate
    for name, data in {
        "server.key": (KEYS["SERVER_PRIVATE_KEY"] + "\n").encode(),
        "client.key": (KEYS["CLIENT_PRIVATE_KEY"] + "\n").encode(),
        "identity.key": (KEYS["BASE64"] + "\n").encode(),
        "clients.txt": (KEYS["CLIENT_PUBLIC_KEY"] + " laptop\n").encode(),
        "fullchain.pem": cert,
        "ca.pem": cert,
        "privkey.pem": key,
    }.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "site").mkdir()
    return tmp_path


def fill_in(block: Block) -> str:
    _, *words = block.language.split()
    text = "".join(BASES[word] for word in words) + block.text
    return re.sub("|".join(KEYS), lambda found: KEYS[found[0]], text)


@pytest.mark.parametrize("block", TOML, ids=place)
def test_configs_load(block: Block, folder: Path) -> None:
    path = folder / "example.toml"
    path.write_text(fill_in(block))
    path.chmod(0o600)
    load_any(path)


class Command(NamedTuple):
    """A program, the subcommands named after it, and the options given."""

    program: str
    words: tuple[str, ...]
    options: tuple[str, ...]


def parse_commands(line: str) -> Iterator[Command]:
    """Yield the commands of ours in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    current: list[str] = []
    for token in [*lexer, ";"]:
        if not re.fullmatch(r"[;&|()<>]+", token):
            current.append(token)
            continue
        while current and (current[0] in {"sudo", "exec"} or "=" in current[0]):
            del current[0]
        if current and (program := Path(current[0]).name) in COMMAND_NAMES:
            yield understand(program, current[1:])
        # What follows a redirection is a file's name.
        current = ["(file)"] if token[0] in "<>" else []


def understand(program: str, arguments: list[str]) -> Command:
    words = [a for a in arguments if re.fullmatch(r"[a-z][a-z0-9-]*", a)]
    options = [a.partition("=")[0] for a in arguments if a.startswith("-")]
    return Command(program, tuple(words), tuple(options))


def commands() -> dict[Command, str]:
    """Return every command shown, and one place where it is."""
    found: dict[Command, str] = {}
    for block in BLOCKS:
        for offset, line in enumerate(block.text.splitlines(), 1):
            shown = re.match(r"\s*[a-z@-]*[$#] (.*)", line)
            if block.language == "sh" or (block.language == "console" and shown):
                where = f"{block.page.name}:{block.line + offset}"
                for command in parse_commands(shown[1] if shown else line):
                    found.setdefault(command, where)
    for page in PAGES:
        for span in re.findall(r"`((?:phantom|twistd) [^`]+)`", prose(page)):
            for command in parse_commands(span):
                found.setdefault(command, page.name)
    return found


COMMANDS = commands()

PROGRAMS = {
    "phantom": "from phantom.app.cli.main import main as run; run()",
    "twistd": "from twisted.scripts.twistd import run; run()",
}


@functools.cache
def usage(program: str, words: tuple[str, ...]) -> tuple[int, str]:
    """Return the exit status and the text of ``program words --help``."""
    code = f"import sys; sys.argv[0] = {program!r}\n{PROGRAMS[program]}"
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--help"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join((c.program, *c.words)))
def test_commands_exist(command: Command) -> None:
    status, text = usage(command.program, command.words)
    assert status == 0, f"{COMMANDS[command]}: {text.strip().splitlines()[-1]}"
    known = text + (usage("twistd", ())[1] if command.program == "twistd" else "")
    for option in command.options:
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", known), (
            f"{COMMANDS[command]}: no option {option}"
        )


def slugs(page: Path) -> set[str]:
    """Return the anchors that a code host gives a page's headings."""
    titles = re.findall(r"(?m)^#+ (.+)$", prose(page))
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(\s*<?([^)>\s]+)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        assert there.is_relative_to(ROOT), f"{page.name}: {target} leads outside"
        if anchor:
            assert anchor in slugs(there), f"{page.name}: {target}: no such heading"


def test_ci_installs_and_tests_as_the_readme_says() -> None:
    install, tests = (
        block.text.strip()
        for block in BLOCKS
        if block.page.name == "README.md" and block.language == "sh"
    )
    script = re.sub(r"\\\n\s*", "", (ROOT / ".ci" / "run").read_text())
    made, installed, demo = install.split(" && ")
    for part in (made, installed.replace(" install ", " install --quiet "), demo, tests):
        assert part in re.sub(r"\s+", " ", script)


def test_the_checks_find_mistakes() -> None:
    [command] = parse_commands("cat x | .venv/bin/phantom check --no-such server.toml > out")
    assert command == Command("phantom", ("check",), ("--no-such",))
    assert usage("phantom", ("no-such-command",))[0] != 0
    assert list(parse_commands("echo phantom genkey")) == []
    assert slugs(ROOT / "README.md") >= {"try-it", "not-yet"}


def test_there_is_something_to_check() -> None:
    assert len(TOML) >= 5
    assert len(COMMANDS) >= 8
