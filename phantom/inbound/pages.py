"""What the HTTP proxy says for itself: errors, the help page and the proxy auto-configuration.

Any site can point a browser here, and by rebinding its own name to this address even read
the answer.  So these pages hold no secret: nothing but fixed text, the address the browser
already used, and that of the SOCKS proxy on the same machine.
"""

from __future__ import annotations

from html import escape
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import attrs

from phantom.address import Destination
from phantom.core.httphead import Field

_HTML: Final = b"text/html; charset=utf-8"
#: The type that browsers expect of a PAC file.
_PAC: Final = b"application/x-ns-proxy-autoconfig"

#: Nothing here is worth keeping, framing or running scripts for.
_COMMON: Final[tuple[Field, ...]] = (
    (b"Cache-Control", b"no-store"),
    (b"X-Content-Type-Options", b"nosniff"),
    (
        b"Content-Security-Policy",
        b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    ),
)

_TEMPLATE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem;
  color: #222; background: #fff }}
h1 {{ font-size: 1.4rem }}
code, pre {{ background: #eee; padding: .1rem .3rem; overflow-x: auto }}
@media (prefers-color-scheme: dark) {{
  body {{ color: #ddd; background: #181818 }} code, pre {{ background: #333 }} }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""

_HELP: Final = """<p>This is an HTTP proxy. It is not meant to be visited but to be set in an
application, which then reaches the network through it:</p>
<h2>Firefox</h2>
<p>Settings, Network Settings, Manual proxy configuration: HTTP proxy <code>{host}</code>, port
<code>{port}</code>, and &ldquo;Also use this proxy for HTTPS&rdquo;. Or give
<code>http://{place}/proxy.pac</code> as the automatic configuration URL.</p>
<h2>The system, and with it Chromium, Edge and Safari</h2>
<p>In the network settings, use the same automatic configuration URL,
<code>http://{place}/proxy.pac</code>, or the host and port above for HTTP and HTTPS.</p>
<h2>curl</h2>
<pre>curl -x http://{place} https://example.com/</pre>
<h2>Other programs on a command line</h2>
<pre>export http_proxy=http://{place} https_proxy=http://{place}</pre>
{socks}"""

_HELP_SOCKS: Final = """<h2>Programs that know SOCKS5</h2>
<p>There is a SOCKS5 proxy at <code>{socks}</code>.</p>
"""


@attrs.frozen(slots=True, repr=False)
class Page:
    """An answer that comes from the proxy itself.

    Attributes:
        status: Its status (RFC 9110, section 15).
        body: Its content.
        fields: Its fields, but for those of framing.
    """

    status: int
    body: bytes
    fields: tuple[Field, ...]

    @property
    def reason(self) -> bytes:
        """The reason phrase."""
        return HTTPStatus(self.status).phrase.encode("ascii")


def error_page(status: int, text: str, *fields: Field) -> Page:
    """Return an error that a person understands.

    Args:
        status: The status to answer with.
        text: What happened and what to do; plain text.
        fields: Further fields.
    """
    title = f"{status} {HTTPStatus(status).phrase}"
    body = f"<p>{escape(text)}</p>\n<p><small>This answer comes from the proxy.</small></p>"
    return _html(status, title, body, fields)


def unauthorized_page() -> Page:
    """Return the demand for a user name and a password (RFC 7617)."""
    return error_page(
        407,
        "The proxy wants a user name and a password. They are in its configuration.",
        # Not the name of this program: anyone who finds the port can read it.
        (b"Proxy-Authenticate", b'Basic realm="proxy", charset="UTF-8"'),
    )


def help_page(proxy: Destination, socks: Destination | None) -> Page:
    """Return the page for someone who opens the proxy's own address.

    Args:
        proxy: Where this proxy is, as seen by the visitor.
        socks: Where the SOCKS5 proxy is, if there is one.
    """
    host = f"[{proxy.host}]" if isinstance(proxy.host, IPv6Address) else str(proxy.host)
    body = _HELP.format(
        host=escape(host),
        port=proxy.port,
        place=escape(str(proxy)),
        socks=_HELP_SOCKS.format(socks=escape(str(socks))) if socks is not None else "",
    )
    return _html(200, "A proxy for your applications", body, ())


def pac_page(proxy: Destination, socks: Destination | None) -> Page:
    """Return a proxy auto-configuration file that sends everything here.

    There is no ``DIRECT`` in it: when the proxy is down an application shall fail, not go
    round it.  Only what never leaves the machine does.  Both addresses are host names or
    literals, so nothing in them can end the string they stand in.
    """
    entries = [f"PROXY {proxy}"]
    if socks is not None:
        entries.append(f"SOCKS5 {socks}")
    script = (
        "function FindProxyForURL(url, host) {\n"
        '  if (host === "localhost" || host === "127.0.0.1" || host === "[::1]"'
        ' || host === "::1") {\n'
        '    return "DIRECT";\n'
        "  }\n"
        f'  return "{"; ".join(entries)}";\n'
        "}\n"
    )
    return Page(200, script.encode("ascii"), ((b"Content-Type", _PAC), *_COMMON))


def own_page(method: bytes, path: bytes, proxy: Destination, socks: Destination | None) -> Page:
    """Answer a request to the proxy itself.

    Args:
        method: The request's method.
        path: Its path and query, or ``*``.
        proxy: Where this proxy is, as seen by the visitor.
        socks: Where the SOCKS5 proxy is, if there is one.
    """
    if method == b"OPTIONS":
        return Page(204, b"", ((b"Allow", b"GET, HEAD, OPTIONS"), *_COMMON))
    if method not in (b"GET", b"HEAD"):
        return error_page(
            405,
            "This is a proxy, and the request was addressed to the proxy itself.",
            (b"Allow", b"GET, HEAD, OPTIONS"),
        )
    name = path.partition(b"?")[0]
    if name in (b"/proxy.pac", b"/wpad.dat"):
        return pac_page(proxy, socks)
    if name == b"/":
        return help_page(proxy, socks)
    return error_page(404, "This is a proxy; there is only its help page, at /.")


def seen_address(host_field: bytes, own: Destination) -> Destination:
    """Return where the visitor found this proxy.

    Args:
        host_field: The request's Host.
        own: The local address of the connection, used when the field makes no sense.
    """
    try:
        return Destination.parse(host_field.decode("ascii"), 80)
    except ValueError:
        return own


def seen_socks(socks: Destination | None, proxy: Destination) -> Destination | None:
    """Return where a visitor finds the SOCKS5 proxy, None if not at all.

    Args:
        socks: Where it listens; perhaps on every address, or on loopback only.
        proxy: Where the visitor found this proxy.
    """
    if socks is None or not isinstance(socks.host, IPv4Address | IPv6Address):
        return socks
    if socks.host.is_unspecified:
        return Destination(proxy.host, socks.port)
    if socks.host.is_loopback and not _is_loopback(proxy):
        return None
    return socks


def _is_loopback(place: Destination) -> bool:
    if isinstance(place.host, str):
        return place.host == "localhost"
    return ip_address(place.host).is_loopback


def _html(status: int, title: str, body: str, fields: tuple[Field, ...]) -> Page:
    text = _TEMPLATE.format(title=escape(title), body=body)
    return Page(status, text.encode(), ((b"Content-Type", _HTML), *_COMMON, *fields))
