"""Sites that `phantom.carriers.nginx_site` can serve: a folder, and a page made up."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import re
import stat
from typing import IO
from urllib.parse import quote

from phantom.carriers.nginx_site import Answer
from phantom.core.nginx_pages import DEFAULT_BANNER, Response, error_page, http_date
from phantom.core.nginx_request import Request

#: What a browser is told about a file, by its ending (nginx 1.22's ``mime.types``).
CONTENT_TYPES = {
    "html": "text/html",
    "htm": "text/html",
    "css": "text/css",
    "xml": "text/xml",
    "gif": "image/gif",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "js": "application/javascript",
    "txt": "text/plain",
    "png": "image/png",
    "svg": "image/svg+xml",
    "tif": "image/tiff",
    "webp": "image/webp",
    "avif": "image/avif",
    "ico": "image/x-icon",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "json": "application/json",
    "pdf": "application/pdf",
    "zip": "application/zip",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "webm": "video/webm",
}

#: For other endings: ``default_type`` in the nginx.conf that distributions ship.
DEFAULT_TYPE = "application/octet-stream"

_RANGE = re.compile(rb"bytes=[ ]*(?:([0-9]{1,18})[ ]*-[ ]*([0-9]{0,18})|-[ ]*([0-9]{1,18}))[ ]*")
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}


def content_type_of(path: bytes) -> str:
    """Return the content type for a path."""
    name = path.rpartition(b"/")[2]
    ending = name.rpartition(b".")[2].decode("latin-1").lower() if b"." in name else ""
    return CONTENT_TYPES.get(ending, DEFAULT_TYPE)


def file_answer(
    request: Request,
    banner: str,
    content_type: str,
    file: IO[bytes],
    size: int,
    modified: float,
) -> Answer:
    """Answer with a file, or a part of it, or that it has not changed.

    Args:
        request: What was asked.
        banner: The Server header.
        content_type: Of the file.
        file: It is closed when it is not in the answer.
        size: In bytes.
        modified: Seconds since the Unix epoch.
    """
    etag = f'"{int(modified):x}-{size:x}"'
    date = http_date(modified)
    if _unchanged(request, etag, date):
        file.close()
        return Answer(
            response=Response(status=304, content_type=None, last_modified=modified, etag=etag)
        )
    span = _wanted(request, etag, date, size)
    if span is None:
        return Answer(
            response=Response(
                status=200,
                content_type=content_type,
                length=size,
                last_modified=modified,
                etag=etag,
                accept_ranges=True,
            ),
            file=file,
        )
    start, end = span
    if start >= end:
        file.close()
        return _page(416, banner, request, content_range=f"bytes */{size}")
    file.seek(start)
    return Answer(
        response=Response(
            status=206,
            content_type=content_type,
            length=end - start,
            last_modified=modified,
            etag=etag,
            content_range=f"bytes {start}-{end - 1}/{size}",
        ),
        file=file,
    )


def _unchanged(request: Request, etag: str, date: str) -> bool:
    """Apply the conditions of RFC 9110, section 13, as ngx_http_not_modified_filter does."""
    since = request.headers.get(b"if-modified-since")
    none_match = request.headers.get(b"if-none-match")
    if since is None and none_match is None:
        return False
    if since is not None and since != date.encode():
        return False
    if none_match is None or none_match == b"*":
        return True
    tags = [tag.strip().removeprefix(b"W/") for tag in none_match.split(b",")]
    return etag.encode() in tags


def _wanted(request: Request, etag: str, date: str, size: int) -> tuple[int, int] | None:
    """Return start and end of the part asked for; None for all, an empty one for a bad range."""
    asked = request.headers.get(b"range")
    if asked is None or not asked.startswith(b"bytes=") or b"," in asked:
        return None  # several parts: all of it is a proper answer as well
    condition = request.headers.get(b"if-range")
    if condition is not None and condition not in (etag.encode(), date.encode()):
        return None
    match = _RANGE.fullmatch(asked)
    if match is None:
        return 0, 0
    if match[3] is not None:
        return max(0, size - int(match[3])), size
    start = int(match[1])
    end = min(size, int(match[2]) + 1) if match[2] else size
    return start, end


def _page(
    status: int,
    banner: str,
    request: Request,
    *,
    location: str | None = None,
    content_range: str | None = None,
) -> Answer:
    page = error_page(status, banner=banner, version=request.version, user_agent=request.user_agent)
    response = Response(
        status=status, length=len(page), location=location, content_range=content_range
    )
    return Answer(response=response, body=page)


# Without O_NONBLOCK, opening a FIFO would stop the server until someone writes to it.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class FolderSite:
    """Serves a folder's files as nginx does with ``root`` and ``index index.html``.

    Symbolic links are followed, as nginx does: what is in the folder is for everyone.

    Args:
        path: The folder.
        banner: The Server header.
    """

    def __init__(self, path: str, banner: str = DEFAULT_BANNER) -> None:
        self._root = os.fsencode(os.path.abspath(path))
        self.banner = banner

    def answer(self, request: Request, origin: str) -> Answer | int:
        """See `phantom.carriers.nginx_site.Site.answer`."""
        if request.method not in (b"GET", b"HEAD", b"POST"):
            return 405
        # The path is normalised: it has no dots to climb with and no zero byte.
        path = self._root + request.path
        index = path.endswith(b"/")
        try:
            descriptor = os.open(path + b"index.html" if index else path, _OPEN_FLAGS)
        except OSError as error:
            if error.errno in _ABSENT and not (index and os.path.isdir(path)):
                return 404
            return 403
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or request.method == b"POST":
            os.close(descriptor)
            if stat.S_ISREG(about.st_mode):
                return 405
            if index or not stat.S_ISDIR(about.st_mode):
                return 404
            location = f"{origin}{quote(request.path)}/"
            return _page(301, self.banner, request, location=location)
        name = b"index.html" if index else request.path
        return file_answer(
            request,
            self.banner,
            content_type_of(name),
            os.fdopen(descriptor, "rb", buffering=0),
            about.st_size,
            about.st_mtime,
        )


# What the built-in site is put together from.  Every list is drawn from by the seed, so that
# no text, no style and no date is common to all servers.
_FIRST = ("Alder", "Birch", "Cedar", "Elm", "Hazel", "Juniper", "Larch", "Linden", "Maple", "Rowan")
_SECOND = (
    "Bay",
    "Brook",
    "Court",
    "Field",
    "Ford",
    "Gate",
    "Hill",
    "Lane",
    "Mill",
    "Ridge",
    "Yard",
)
_TRADES = (
    ("joinery", "windows, doors and stairs made to measure"),
    ("bindery", "books bound, mended and boxed by hand"),
    ("nursery", "hardy perennials and fruit trees, grown outdoors"),
    ("ceramics", "stoneware for the table, thrown and glazed here"),
    ("cycles", "repairs, wheel building and second-hand frames"),
    ("bakery", "sourdough bread, baked four mornings a week"),
    ("upholstery", "chairs and sofas stripped, sprung and covered"),
    ("printing", "letterpress cards, posters and stationery"),
)
_DAYS = ("Monday to Friday", "Tuesday to Saturday", "Wednesday to Sunday", "weekdays")
_NOTES = (
    "We are a small workshop and answer messages in the evening.",
    "Please call before you come by, we are often out on a job.",
    "Orders placed this month are ready in about six weeks.",
    "The yard is closed for two weeks in August and over the new year.",
    "There is parking behind the building; the bell is on the side door.",
    "A new site with photographs is being put together.",
)
_FONTS = (
    "Georgia, serif",
    "Helvetica, Arial, sans-serif",
    "Palatino, serif",
    "Verdana, sans-serif",
)

#: The built-in site claims to be older than this: 2024-06-01 00:00:00 UTC.
_NEWEST_SITE = 1717200000


class PageSite:
    """A small plausible page, made from a seed: the same for ever, and for this server only.

    Args:
        seed: Anything that is particular to the server.
        banner: The Server header.
    """

    def __init__(self, seed: bytes, banner: str = DEFAULT_BANNER) -> None:
        self.banner = banner
        draw = random.Random(hashlib.sha256(b"phantom built-in site\0" + seed).digest())
        trade, offer = draw.choice(_TRADES)
        name = f"{draw.choice(_FIRST)} {draw.choice(_SECOND)} {trade}".title()
        notes = draw.sample(_NOTES, draw.randint(2, 4))
        opens = draw.randint(7, 10)
        ink, paper = draw.randint(0, 0x555555), 0xFFFFFF - draw.randint(0, 0x1F1F1F)
        style = (
            f"body {{ margin: {draw.randint(2, 6)}em auto; max-width: {draw.randint(34, 52)}em; "
            f"font-family: {draw.choice(_FONTS)}; color: #{ink:06x}; background: #{paper:06x}; "
            f"line-height: {draw.randint(13, 17) / 10}; }}\n"
            f"h1 {{ font-size: {draw.randint(16, 26) / 10}em; }}\n"
        )
        paragraphs = "".join(f"<p>{note}</p>\n" for note in notes)
        page = (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f"<title>{name}</title>\n"
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<link rel="stylesheet" href="/style.css">\n</head>\n<body>\n'
            f"<h1>{name}</h1>\n<p>{offer.capitalize()}.</p>\n{paragraphs}"
            f"<p>Open {draw.choice(_DAYS)}, {opens}:00 to {opens + draw.randint(7, 9)}:00.</p>\n"
            "</body>\n</html>\n"
        )
        self._modified = _NEWEST_SITE - draw.randint(0, 3 * 365 * 86400)
        html = page.encode(), "text/html"
        self._files = {
            b"/": html,
            b"/index.html": html,
            b"/style.css": (style.encode(), "text/css"),
        }

    def answer(self, request: Request, origin: str) -> Answer | int:
        """See `phantom.carriers.nginx_site.Site.answer`."""
        if request.method not in (b"GET", b"HEAD", b"POST"):
            return 405
        entry = self._files.get(request.path)
        if entry is None:
            return 404
        if request.method == b"POST":
            return 405
        body, content_type = entry
        return file_answer(
            request, self.banner, content_type, io.BytesIO(body), len(body), self._modified
        )
