"""A real nginx on this machine: the decoy's content, and what to compare with."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

#: Where Debian keeps it, off an ordinary user's path.
_PLACES = "/usr/sbin:/usr/local/sbin"
#: Seconds for it to start.
_PATIENCE = 5.0


def find_nginx() -> str | None:
    """Return the program, None where it is not installed."""
    return shutil.which("nginx") or shutil.which("nginx", path=_PLACES)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class Nginx:
    """Serves a folder over HTTP, and over HTTPS with the server's own certificate.

    Args:
        program: See `find_nginx`.
        folder: For its own files.
        root: What it serves.
        certificate: The certificate chain in PEM.
        key: Its key.

    Attributes:
        plain: Its port for HTTP/1 on 127.0.0.1.
        h2c: Its port for HTTP/2 without TLS.
        tls: Its port for HTTPS that agrees to HTTP/1 alone.
        tls_h2: Its port for HTTPS that agrees to HTTP/2 as well.

    Raises:
        OSError: It does not start.
    """

    def __init__(
        self, program: str, folder: Path, root: Path, certificate: Path, key: Path
    ) -> None:
        self.plain, self.h2c, self.tls, self.tls_h2 = (_free_port() for _ in range(4))
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        types = Path("/etc/nginx/mime.types")
        common = f"root {root};"
        configuration = f"""
            daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
            events {{}}
            http {{
              access_log off; {paths} default_type application/octet-stream;
              {f"include {types};" if types.exists() else ""}
              ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
              server {{ listen 127.0.0.1:{self.plain}; {common} }}
              server {{ listen 127.0.0.1:{self.h2c} http2; {common} }}
              ssl_certificate {certificate}; ssl_certificate_key {key};
              server {{ listen 127.0.0.1:{self.tls} ssl; {common} }}
              server {{ listen 127.0.0.1:{self.tls_h2} ssl http2; {common} }}
            }}"""
        file = folder / "nginx.conf"
        file.write_text(configuration)
        self._process = subprocess.Popen(  # noqa: S603  (found by `find_nginx`)
            [program, "-c", str(file), "-e", str(folder / "error.log")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.tls), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        self.stop()
        raise OSError("nginx did not start")

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
