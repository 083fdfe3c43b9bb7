"""``phantom audit`` on live pairs: a verdict for each detector, and a leaky build that fails."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from support.certificates import make_certificate
from support.programs import need

from phantom.audit.nginx import load_stream
from phantom.audit.report import DETECTORS

PROGRAM = [
    *(sys.executable, "-c", "from phantom.app.cli.main import main; main()", "audit"),
    *("--links", "100", "--pages", "2", "--patience", "0.3"),
]
#: What the tunnel is built to pass; shaping and the choice of groups have their own tests.
SOLID = {
    "tcp": {"first-packet", "first-length", "uniformity", "connections", "keepalive", "probes"},
    "tls": {
        *("first-packet", "entropy", "client-hello", "connections", "keepalive"),
        *("post-handshake", "replays"),
    },
}


def audited(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = subprocess.run(
        [*PROGRAM, "--json", *arguments], capture_output=True, text=True, timeout=100
    )
    assert done.stdout, done.stderr
    [one] = json.loads(done.stdout)
    return done.returncode, {verdict["detector"]: verdict for verdict in one["verdicts"]}


@pytest.mark.slow
@pytest.mark.parametrize("carrier", ["tcp", "tls"])
def test_every_detector_has_its_say(carrier: str) -> None:
    status, verdicts = audited("--carrier", carrier)
    assert list(verdicts) == list(DETECTORS)
    failing = {name for name, verdict in verdicts.items() if verdict["status"] == "failed"}
    assert status == bool(failing)
    assert not failing & SOLID[carrier], [verdicts[name] for name in failing & SOLID[carrier]]
    for verdict in verdicts.values():
        assert verdict["measured"] and verdict["threshold"] and verdict["source"]


@pytest.mark.slow
def test_the_default_face_is_the_nginx_of_this_machine() -> None:
    need("nginx")
    _status, verdicts = audited("--carrier", "tls", "--only", "post-handshake,probes")
    assert verdicts["post-handshake"]["status"] == "passed", verdicts["post-handshake"]["details"]
    # How late an answer is says something of the machine under test, and is left out.
    found = [line for line in verdicts["probes"]["details"] if ": after " not in line]
    assert verdicts["probes"]["status"] != "skipped" and not found


@pytest.mark.slow
def test_tls_that_an_nginx_ends() -> None:
    need("nginx")
    if load_stream("nginx") is None:
        pytest.skip("nginx has no stream module: install libnginx-mod-stream")
    _status, verdicts = audited("--carrier", "nginx", "--only", "client-hello,probes,replays")
    assert verdicts["client-hello"]["status"] == verdicts["replays"]["status"] == "passed"
    found = [line for line in verdicts["probes"]["details"] if ": after " not in line]
    # ssl_preread waits for more, or closes a moment earlier or later; see doc/probing.md.
    told = {"SOCKS5", "TLS bad length", "1 random bytes", "17410 random bytes"}
    assert {line.partition(":")[0] for line in found} <= told


def config(folder: Path, **client: str) -> list[str]:
    """Write a server and a client, the latter with more settings, and return their options."""
    keys = [X25519PrivateKey.generate() for _ in range(2)]
    private = [base64.b64encode(key.private_bytes_raw()).decode() for key in keys]
    public = [base64.b64encode(key.public_key().public_bytes_raw()).decode() for key in keys]
    (folder / "server.toml").write_text(
        f'[server]\nlisten = "192.0.2.1:443"\nprivate_key = "{private[0]}"\n'
        f'allowed_clients = ["{public[1]}"]\nstate_dir = "/nonexistent"\n'
    )
    more = "".join(f"{name} = {value}\n" for name, value in client.items())
    (folder / "client.toml").write_text(
        f'[client]\nserver = "192.0.2.1:443"\nserver_public_key = "{public[0]}"\n'
        f'private_key = "{private[1]}"\n{more}'
    )
    for name in ("server.toml", "client.toml"):
        (folder / name).chmod(0o600)
    return [f"--server-config={folder}/server.toml", f"--client-config={folder}/client.toml"]


def test_a_client_without_a_prefix_is_found(tmp_path: Path) -> None:
    options = config(tmp_path, tcp_prefix="false")
    status, verdicts = audited("--only", "first-packet", *options)
    assert status == 1
    assert verdicts["first-packet"]["status"] == "failed"


def test_a_pair_that_does_not_match_is_told(tmp_path: Path) -> None:
    options = config(tmp_path, tls_sni='"site.example"', handshake_timeout="1")
    done = subprocess.run([*PROGRAM, *options], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("phantom: this client and this server do not get together: ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_pair_of_files_with_tls_and_a_folder_is_compared_with_nginx(tmp_path: Path) -> None:
    need("nginx")
    certificate = make_certificate(tmp_path, "site.example")
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "index.html").write_text("<p>hello")
    pin = certificate.pin if certificate.pin.startswith("sha256/") else f"sha256/{certificate.pin}"
    options = config(tmp_path, tls_sni='"site.example"', tls_pin=f'"{pin}"')
    with (tmp_path / "server.toml").open("a") as file:
        file.write(
            f'tls_cert = "{certificate.cert}"\ntls_key = "{certificate.key}"\ndecoy = "www"\n'
        )
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)  # nginx reads as nobody when root starts it
    _, verdicts = audited("--only", "replays,probes,client-hello", *options)
    assert verdicts["replays"]["status"] == "passed"
    assert verdicts["client-hello"]["status"] == "passed"
    # Which differences there are is no matter here; that they were looked for is.
    assert verdicts["probes"]["status"] in ("passed", "failed")
    assert not [
        line for line in verdicts["probes"]["details"] if line.startswith("in TLS: GET:")
    ], verdicts["probes"]


def test_an_interrupted_audit_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [*PROGRAM, "--carrier", "tls"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        end = time.monotonic() + 20
        while not list(tmp_path.glob("*/b/server/*")) and time.monotonic() < end:
            time.sleep(0.05)
        assert list(tmp_path.iterdir())
        process.send_signal(signal.SIGINT)
        out, complaint = process.communicate(timeout=30)
    assert process.returncode == 130, complaint or out
    assert not list(tmp_path.iterdir())
    assert "Traceback" not in complaint
    assert not out
