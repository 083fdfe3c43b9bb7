"""The older nginx's face that doc/operation.md promises, by OpenSSL's own configuration."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[2] / "doc" / "operation.md"

#: Shakes hands as a client without X25519MLKEM768 would; prints the server's first records.
HANDSHAKE = """
import ssl, sys
from phantom.carriers.tls_openssl import ServerCertificates
server = ServerCertificates(sys.argv[1], sys.argv[2]).engine()
server.start()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.set_ecdh_curve("X25519")
there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
client = context.wrap_bio(back, there, server_hostname="server.test")
try:
    client.do_handshake()
except ssl.SSLWantReadError:
    server.receive(there.read())
flight = server.outgoing()
while flight:
    size = int.from_bytes(flight[3:5], "big")
    print(flight[0], size)
    flight = flight[5 + size:]
"""


def records(certificate: Any, environment: dict[str, str]) -> list[tuple[int, int]]:
    done = subprocess.run(
        [sys.executable, "-c", HANDSHAKE, certificate[0], certificate[1]],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        cwd=Path(__file__).parents[2],
    )
    return [(int(kind), int(size)) for kind, size in map(str.split, done.stdout.splitlines())]


def test_the_documented_groups_make_the_older_face(certificate: Any, tmp_path: Path) -> None:
    block = re.search(r"```ini\n(openssl_conf.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert block is not None
    config = tmp_path / "openssl.cnf"
    config.write_text(block[1])
    plain = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    plain.pop("OPENSSL_CONF", None)
    newer = records(certificate, plain)
    older = records(certificate, {**plain, "OPENSSL_CONF": str(config)})
    # ServerHello, CCS, EncryptedExtensions: 10 bytes of message, 1 of type, 16 of tag.
    assert [kind for kind, _ in older[:3]] == [22, 20, 23] and older[2][1] == 27
    assert newer[2][1] > older[2][1]
