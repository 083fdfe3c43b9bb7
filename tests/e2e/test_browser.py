"""A real browser through the tunnel."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.destinations import WebServer
from support.programs import Tunnel, run

pytestmark = pytest.mark.e2e

#: Of each kind: images, scripts, style sheets.
EACH = 10

PAGE = """<!DOCTYPE html><html><head><title>waiting</title>{heads}</head><body>{images}
<p id="sum">0</p><script>
addEventListener("load", () => {{
  const images = [...document.images].filter((image) => image.naturalWidth == 2).length;
  const styles = [...document.styleSheets].filter((sheet) => sheet.cssRules.length).length;
  document.title = `scripts=${{window.ran}} images=${{images}} styles=${{styles}}`;
}});
</script></body></html>"""


def png() -> bytes:
    """Return an image of 2 by 2 black pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0\0\0" * 2)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.fixture
def site() -> Iterator[WebServer]:
    with WebServer() as server:
        heads = images = ""
        for number in range(EACH):
            heads += (
                f'<script src="/{number}.js"></script><link rel=stylesheet href="/{number}.css">'
            )
            images += f'<img src="/{number}.png">'
            server.pages[f"/{number}.js"] = (
                "text/javascript",
                b"window.ran = (window.ran || 0) + 1; /*" + b"x" * 20_000 + b"*/",
            )
            server.pages[f"/{number}.css"] = (
                "text/css",
                b".c%d { color: red } /*" % number + b"x" * 20_000 + b"*/",
            )
            server.pages[f"/{number}.png"] = ("image/png", png())
        page = PAGE.format(heads=heads, images=images)
        server.pages["/"] = ("text/html", page.encode())
        yield server


@pytest.mark.parametrize("scheme", ["socks5", "http"])
def test_a_page_of_thirty_resources(
    tunnel: Tunnel, site: WebServer, tmp_path: Path, scheme: str
) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("not installed: chromium")
    before = tunnel.server.log()
    done = run(
        browser,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-dev-shm-usage", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", "--disable-extensions"),
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--proxy-server={scheme}://{tunnel.socks5 if scheme == 'socks5' else tunnel.http}",
        "--proxy-bypass-list=<-loopback>",
        *("--timeout=20000", "--dump-dom", site.url("/")),
        timeout=50,
    )
    expected = f"<title>scripts={EACH} images={EACH} styles={EACH}</title>"
    assert expected in done.stdout.decode(), (done.stdout[:500], done.stderr[-2000:])
    wanted = {"/"} | {f"/{n}.{kind}" for n in range(EACH) for kind in ("js", "css", "png")}
    assert {path: site.requests[path] for path in wanted} == dict.fromkeys(wanted, 1)
    assert tunnel.server.log() == before  # nothing went wrong, and nothing to tell
