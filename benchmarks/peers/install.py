"""Getting peers from the registries: Debian packages with apt-get, Python ones with pip."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.peers.base import NAME, Peer
from benchmarks.programs import CACHE


def make_keys() -> None:
    """Make a throwaway certificate and SSH keys, once."""
    folder = CACHE / "keys"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    if not (folder / "cert.pem").exists():
        _make_certificate()
    if shutil.which("ssh-keygen"):
        for name in ("ssh_host", "ssh_user"):
            if not (folder / name).exists():
                command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
                subprocess.run(command, check=True)
        authorized = folder / "authorized_keys"
        shutil.copy(folder / "ssh_user.pub", authorized)
        authorized.chmod(0o600)


def _make_certificate() -> None:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        # Its own authority: clients are told to trust it.
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key_path = CACHE / "keys" / "key.pem"
    key_path.touch(mode=0o600)
    key_path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (CACHE / "keys" / "cert.pem").write_bytes(certificate.public_bytes(pem))


def install(peers: Sequence[Peer]) -> None:
    """Install what these peers need and is not there; say what could not be had."""
    _apt(sorted({package for peer in peers for package in peer.apt}))
    _pip(sorted({package for peer in peers for package in peer.pip}))
    make_keys()


def _apt(packages: Sequence[str]) -> None:
    if not packages or not shutil.which("dpkg-query"):
        return
    listing = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev}\n"]
    text = subprocess.run(listing, capture_output=True, text=True).stdout
    present = {line.split()[0] for line in text.splitlines() if line.split()[1:2] == ["ii"]}
    missing = [package for package in packages if package not in present]
    if not missing:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    get = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq", "-y", "--no-install-recommends"]

    def run(*arguments: str) -> bool:
        command = [*get, *arguments]
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL)
        return done.returncode == 0

    print("apt-get install", *missing, file=sys.stderr)
    if not run("install", *missing):
        run("update")
        for package in missing:
            if not run("install", package):
                print(f"could not install {package}", file=sys.stderr)


def _pip(packages: Sequence[str]) -> None:
    """Install into an environment of their own: peers must not change ours."""
    if not packages:
        return
    python = CACHE / "venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    listed = subprocess.run([*pip, "list", "--format", "json"], capture_output=True, text=True)
    present = {item["name"].lower().replace("_", "-") for item in json.loads(listed.stdout)}
    for package in packages:
        if package not in present:
            print("pip install", package, file=sys.stderr)
            command = [*pip, "-q", "install", package]
            if subprocess.run(command, stdout=sys.stderr).returncode:
                print(f"could not install {package}", file=sys.stderr)
