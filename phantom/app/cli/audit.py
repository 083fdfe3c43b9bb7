"""``phantom audit``: a censor against the tunnel, on this machine or in a capture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from phantom.app.audit import AuditSettings, LiveAudit
    from phantom.audit.verdict import Verdict

#: Names of ``--carrier``, and what the fresh pair of each is called in the output.
_CARRIERS = {"tcp": "bare TCP", "tls": "TLS"}
#: One more, which needs a program.
_NGINX = "nginx"
_NAMES = _CARRIERS | {_NGINX: "TLS behind nginx"}

_FILE = click.Path(dir_okay=False)


def _names(_context: Any, _parameter: Any, value: str | None) -> tuple[str, ...]:
    from phantom.audit.report import DETECTORS

    if value is None:
        return DETECTORS
    names = [name.strip() for name in value.split(",") if name.strip()]
    for name in names:
        if name not in DETECTORS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(DETECTORS)}")
    return tuple(names)


@click.command()
@click.option("--server-config", type=_FILE, metavar="FILE", help="A server to audit.")
@click.option("--client-config", type=_FILE, metavar="FILE", help="The client that goes with it.")
@click.option(
    "--carrier",
    type=click.Choice([*_NAMES, "both"]),
    default="both",
    show_default=True,
    help="Without files: what the fresh pairs use; `nginx` is TLS that an nginx ends before the "
    "server.",
)
@click.option(
    "--pcap",
    type=_FILE,
    metavar="FILE",
    help="Judge a capture (pcap or pcapng) instead of a live pair.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="The server's port in the capture; all TCP connections otherwise.",
)
@click.option(
    "--only", callback=_names, metavar="NAME,...", help="Run these detectors and no others."
)
@click.option(
    "--links",
    type=click.IntRange(1, 4000),
    default=1000,
    show_default=True,
    help="Handshakes on bare TCP.",
)
@click.option(
    "--pages", type=click.IntRange(1, 1000), default=24, show_default=True, help="Pages to load."
)
@click.option(
    "--patience",
    type=click.FloatRange(0.1, 120),
    default=1.0,
    show_default=True,
    help="Seconds of silence after which a probed connection counts as open.",
)
@click.option("--browser", is_flag=True, help="Load pages with Chromium, where it is installed.")
@click.option(
    "--decoy-port",
    type=click.IntRange(1, 65535),
    help="A web server on 127.0.0.1 with the decoy's content and certificate to compare with, "
    "in place of an nginx of our own.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON.")
def audit(
    server_config: str | None,
    client_config: str | None,
    carrier: str,
    pcap: str | None,
    port: int | None,
    only: tuple[str, ...],
    links: int,
    pages: int,
    patience: float,
    browser: bool,
    decoy_port: int | None,
    as_json: bool,
) -> None:
    """Look at the tunnel as a censor does, and say what gives it away.

    Starts a server and a client on this machine (a fresh pair for bare TCP and one for TLS,
    or what the two files say), browses through them, captures what crosses the path, probes
    the server, and prints a verdict for each detector: what was measured, the limit, and
    where the rule comes from. With --pcap a capture is judged instead. Nothing leaves this
    machine.

    The exit status is 1 when any detector finds the tunnel, 0 otherwise.

    The files are used as they are, except that everything moves to loopback, to free ports
    and to a temporary folder. As root, packets are captured; otherwise a relay records them,
    which sees the same bytes but not every boundary between segments.
    """
    if (server_config is None) != (client_config is None):
        raise click.UsageError("--server-config and --client-config go together")
    if pcap is not None:
        if server_config is not None:
            raise click.UsageError("a capture, or a pair of files: not both")
        _finish([_judge_capture(pcap, port, only)], as_json)
        return
    if port is not None:
        raise click.UsageError("--port goes with --pcap")
    from phantom.app.audit import AuditSettings

    settings = AuditSettings(
        detectors=only,
        links=links,
        pages=pages,
        patience=patience,
        browser=_find_browser() if browser else None,
        decoy_port=decoy_port,
    )
    kinds = list(_CARRIERS) if carrier == "both" else [carrier]
    _finish(_audit_live(settings, server_config, client_config, kinds), as_json)


def _find_browser() -> str:
    import shutil

    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise click.ClickException("no Chromium is installed; leave out --browser")
    return found


def _judge_capture(
    pcap: str, port: int | None, only: tuple[str, ...]
) -> tuple[str, str, list[Verdict]]:
    from phantom.audit.pcap import MAX_CAPTURE, read_capture
    from phantom.audit.report import judge_capture
    from phantom.errors import ConfigurationError, RemoteProtocolError

    path = Path(pcap)
    try:
        if path.stat().st_size > MAX_CAPTURE:
            raise ConfigurationError("more than 1 GiB", file=pcap, fix="cut a piece out of it")
        flows = read_capture(path.read_bytes(), port)
    except OSError as error:
        raise ConfigurationError(error.strerror or "cannot be read", file=pcap) from None
    except RemoteProtocolError as error:
        raise ConfigurationError(str(error), file=pcap) from None
    return pcap, f"{len(flows)} connections in the file", judge_capture(flows, only)


def _audit_live(
    settings: AuditSettings, server: str | None, client: str | None, kinds: list[str]
) -> list[tuple[str, str, list[Verdict]]]:
    from twisted.internet import reactor as installed
    from twisted.internet.defer import CancelledError, Deferred

    from phantom.app.audit import LiveAudit
    from phantom.config.load import load_client, load_server
    from phantom.runtime import steady, system_runtime
    from phantom.telemetry import set_level

    reactor: Any = installed
    steady(reactor)
    set_level("error")
    runtime = system_runtime(reactor)

    stopped: list[bool] = []

    def say(what: str, done: int, total: int) -> None:
        if stopped:
            raise CancelledError  # Ctrl-C came while something could not be cancelled
        _progress(what, done, total)

    def make(pair: Any, kind: str = "tcp") -> LiveAudit:
        return LiveAudit(
            runtime, settings, pair=pair, tls=kind == "tls", front=kind == _NGINX, say=say
        )

    audits: list[tuple[str, LiveAudit]]
    if server is not None and client is not None:
        pair = load_server(server).server, load_client(client).client
        audits = [(f"{server}, {client}", make(pair))]
    else:
        audits = [(_NAMES[kind], make(None, kind)) for kind in kinds]
    found: list[tuple[str, str, list[Verdict]]] = []
    problems: list[Exception] = []

    running: list[Deferred[None]] = []

    async def run() -> None:
        try:
            for title, one in audits:
                verdicts = await one.run()
                found.append((title, f"captured by {one.capture}", verdicts))
        except CancelledError:
            pass  # Ctrl-C: everything is closed, and the folder gone
        except Exception as error:  # whatever it is, the reactor must end first
            if not stopped:
                problems.append(error)
        running.clear()

    def start() -> None:
        running.append(Deferred.fromCoroutine(run()))
        running[0].addCallback(lambda _: stopped or reactor.stop())

    def stop() -> Deferred[None] | None:
        stopped.append(True)
        for deferred in list(running):
            deferred.cancel()
            return deferred
        return None

    reactor.addSystemEventTrigger("before", "shutdown", stop)
    reactor.callWhenRunning(start)
    reactor.run()
    _clear()
    if problems:
        raise problems[0]
    if len(found) < len(audits):
        raise click.Abort
    return found


def _finish(results: list[tuple[str, str, list[Verdict]]], as_json: bool) -> None:
    """Print the verdicts and end with the status they deserve."""
    import json

    from phantom.audit import report

    if as_json:
        told = [
            {"audited": title, "capture": how, "verdicts": report.as_json(verdicts)}
            for title, how, verdicts in results
        ]
        click.echo(json.dumps(told, indent=2))
    else:
        for title, how, verdicts in results:
            click.echo(f"phantom audit: {title} ({how})\n\n{report.table(verdicts)}\n")
    broken = [v.detector for _, _, verdicts in results for v in verdicts if report.failed([v])]
    if not as_json:
        told_text = f"found by: {', '.join(dict.fromkeys(broken))}" if broken else "not found"
        click.echo(told_text)
    if broken:
        sys.exit(1)


def _progress(what: str, done: int, total: int) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        count = f" {done} of {total}" if total > 1 else ""
        click.echo(f"\r\x1b[K  {what}{count} ...", nl=False, err=True)


def _clear() -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
