"""``phantom demo``: a real server and client on this machine, and a real download."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from phantom.app.demo import Demo

#: A bigger download shows nothing more, and its checksum alone would take minutes.
MAX_MEGABYTES = 10_000

_PORT = click.IntRange(0, 65535)


@click.command()
@click.option("--once", is_flag=True, help="End after the check; exit status 0 or 1.")
@click.option(
    "--socks5-port",
    default=1080,
    show_default=True,
    help="The SOCKS5 proxy's port; 0 for any.",
    type=_PORT,
)
@click.option(
    "--http-port",
    default=8080,
    show_default=True,
    help="The HTTP proxy's port; 0 for any.",
    type=_PORT,
)
@click.option(
    "--megabytes",
    default=64,
    show_default=True,
    help="Size of the download.",
    type=click.IntRange(1, MAX_MEGABYTES),
)
def demo(once: bool, socks5_port: int, http_port: int, megabytes: int) -> None:
    """Show the tunnel working, on this machine, with fresh keys and TLS.

    Starts a server and a client, downloads through the SOCKS5 and the HTTP proxy, says
    what happened, and keeps both proxies open for you to try until Ctrl-C. Nothing is
    left behind.
    """
    from twisted.internet import reactor as installed

    from phantom.app.demo import Demo
    from phantom.app.process import prepare_process
    from phantom.errors import ConfigurationError
    from phantom.runtime import system_runtime
    from phantom.telemetry import set_level

    reactor: Any = installed
    prepare_process(reactor)
    set_level("warn")
    _end_on_signals(reactor)
    with tempfile.TemporaryDirectory(prefix="phantom-demo-") as folder:
        try:
            made = Demo(
                system_runtime(reactor),
                Path(folder),
                socks5_port=socks5_port,
                http_port=http_port,
                size=megabytes * 1_000_000,
                say=click.echo,
                progress=_progress if sys.stderr.isatty() else _no_progress,
            )
        except ConfigurationError as error:
            # Which setting of a file that the demo made itself is no use to anyone.
            hint = "choose other ports with --socks5-port and --http-port; 0 takes any"
            raise click.ClickException(f"{error.problem} ({hint})") from None
        _run(made, reactor, once)
    if made.failed:
        sys.exit(1)


def _end_on_signals(reactor: Any) -> None:
    """Make a closed terminal and a plain ``kill`` end the demo as Ctrl-C does.

    By default they end the process at once, and the folder with the keys stays behind.  The
    reactor, while it runs, has its own way with SIGTERM.
    """

    def end(_number: int, _frame: Any) -> None:
        if reactor.running:
            reactor.callFromThread(reactor.stop)
        else:
            raise KeyboardInterrupt

    for name in ("SIGHUP", "SIGTERM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end)


def _run(made: Demo, reactor: Any, once: bool) -> None:
    def start() -> None:
        made.start(stop_after=once).addBoth(lambda _: reactor.stop() if once else None)

    reactor.addSystemEventTrigger("before", "shutdown", made.stop)
    reactor.callWhenRunning(start)
    reactor.run()


def _progress(title: str, received: int, size: int) -> None:
    width = 30
    filled = width * received // size
    bar = "#" * filled + "." * (width - filled)
    click.echo(f"\r  {title:<12} [{bar}] {received / 1e6:7.1f} MB", nl=False, err=True)
    if received >= size:
        click.echo("\r" + " " * 70 + "\r", nl=False, err=True)


def _no_progress(title: str, received: int, size: int) -> None:
    pass
