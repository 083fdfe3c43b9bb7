"""A real nginx on this machine: the decoy's content, and what to compare with."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

#: Where Debian keeps it, off an ordinary user's path.
_PLACES = "/usr/sbin:/usr/local/sbin"
#: Seconds for it to start.
_PATIENCE = 5.0
#: What Debian's nginx.conf has.
_PROTOCOLS = "ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;"


def find_nginx() -> str | None:
    """Return the program, None where it is not installed."""
    return shutil.which("nginx") or shutil.which("nginx", path=_PLACES)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def load_stream(program: str) -> str | None:
    """Return the directive that loads the module which passes connections on.

    Args:
        program: See `find_nginx`.

    Returns:
        The directive, empty where the module is part of the program; None where it is missing
        (in Debian it is the package libnginx-mod-stream).
    """
    asked = subprocess.run(  # noqa: S603  (found by `find_nginx`)
        [program, "-V"], capture_output=True, text=True, timeout=_PATIENCE, check=False
    ).stderr
    if re.search(r"--with-stream(\s|$)", asked):
        return ""
    folder = re.search(r"--modules-path=(\S+)", asked)
    module = Path(folder[1] if folder else "/usr/lib/nginx/modules") / "ngx_stream_module.so"
    return f"load_module {module};" if module.exists() else None


def _temporary(folder: Path) -> str:
    """Return directives by which nginx's temporary files go to a folder."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)


class _Process:
    """An nginx that runs until it is stopped.

    Args:
        program: See `find_nginx`.
        folder: For its own files.
        configuration: What follows the main settings.
        port: One that it listens on.
        first: What comes before them.

    Raises:
        OSError: It does not start.
    """

    def __init__(
        self, program: str, folder: Path, configuration: str, port: int, first: str = ""
    ) -> None:
        file = folder / "nginx.conf"
        file.write_text(
            f"{first} daemon off; master_process off; pid {folder}/pid; "
            f"error_log {folder}/error.log; events {{}}\n{configuration}"
        )
        self._port = port
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
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
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


class Front(_Process):
    """Ends TLS in front of servers, and says whose bytes follow, as doc/operation.md has it.

    One server of nginx's looks at the first bytes, and passes on what is TLS to a second one,
    which ends it, and everything else to a web server, which says what web servers say to that.

    Args:
        program: See `find_nginx`.
        folder: For its own files.
        certificate: The certificate chain in PEM.
        key: Its key.
        behind: For each server its sockets, for HTTP/1.1 and for HTTP/2 (None where it is not
            to be agreed to).

    Attributes:
        ports: Where each of them is reached, on 127.0.0.1.

    Raises:
        OSError: It does not start, or has no module to do it.
    """

    def __init__(
        self,
        program: str,
        folder: Path,
        certificate: Path,
        key: Path,
        behind: list[tuple[Path, Path | None]],
    ) -> None:
        load = load_stream(program)
        if load is None:
            raise OSError("nginx has no stream module (in Debian: libnginx-mod-stream)")
        self.ports = [_free_port() for _ in behind]
        secured = f"ssl_certificate {certificate}; ssl_certificate_key {key}; {_PROTOCOLS}"
        stream, http = [], []
        for number, (port, (http1, h2)) in enumerate(zip(self.ports, behind, strict=True)):
            tls, web = f"unix:{folder}/tls{number}", f"unix:{folder}/web{number}"
            stream.append(f"""
              map $ssl_preread_protocol $kind_{number} {{ "" {web}; default {tls}; }}
              map $ssl_alpn_protocol $behind_{number} {{
                {f"h2 unix:{h2};" if h2 is not None else ""} default unix:{http1};
              }}
              server {{
                listen 127.0.0.1:{port}; ssl_preread on; preread_timeout 60s;
                proxy_protocol on; proxy_pass $kind_{number};
              }}
              server {{
                listen {tls} ssl proxy_protocol; set_real_ip_from unix:; {secured}
                ssl_alpn {"h2 " if h2 is not None else ""}http/1.1 http/1.0 http/0.9;
                proxy_protocol on; proxy_pass $behind_{number};
              }}""")
            http.append(f"server {{ listen {web} ssl proxy_protocol; {secured} }}")
        configuration = f"""
            stream {{ {"".join(stream)} }}
            http {{ access_log off; {_temporary(folder)} {"".join(http)} }}"""
        super().__init__(program, folder, configuration, self.ports[0], first=load)


class Nginx(_Process):
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
        types = Path("/etc/nginx/mime.types")
        common = f"root {root};"
        super().__init__(
            program,
            folder,
            f"""
            http {{
              access_log off; {_temporary(folder)} default_type application/octet-stream;
              {f"include {types};" if types.exists() else ""}
              {_PROTOCOLS}
              server {{ listen 127.0.0.1:{self.plain}; {common} }}
              server {{ listen 127.0.0.1:{self.h2c} http2; {common} }}
              ssl_certificate {certificate}; ssl_certificate_key {key};
              server {{ listen 127.0.0.1:{self.tls} ssl; {common} }}
              server {{ listen 127.0.0.1:{self.tls_h2} ssl http2; {common} }}
            }}""",
            self.tls,
        )
