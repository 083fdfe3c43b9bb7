"""The ``phantom`` program: its commands by name, and how failures are told.

Nothing heavy is imported here.  A command's module is imported when the command runs, and
what it needs of the rest of phantom (Twisted, cryptography) inside its function, so that
``phantom --help`` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import click

from phantom import __version__
from phantom.errors import PhantomError
from phantom.version import version_line

#: Exit status after a mistake in a file or its surroundings; wrong usage is 2, click's own.
FAILURE = 1

#: Exit status after Ctrl-C: 128 and the number of SIGINT, as shells have it.
INTERRUPTED = 130


class Entry(NamedTuple):
    """A command that is imported when it is needed.

    Attributes:
        target: ``module:name`` of a `click.Command`.
        summary: Its line in ``phantom --help``.
    """

    target: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "init": Entry("phantom.app.cli.init:init", "Write a configuration file with fresh keys."),
    "check": Entry("phantom.app.cli.check:check", "Check a configuration file."),
    "genkey": Entry("phantom.app.cli.keys:genkey", "Make a private key."),
    "pubkey": Entry("phantom.app.cli.keys:pubkey", "Tell the public key of a private key."),
    "demo": Entry("phantom.app.cli.demo:demo", "Try a tunnel on this machine alone."),
    "audit": Entry("phantom.app.cli.audit:audit", "Look at the tunnel as a censor does."),
}


def complain(text: str) -> None:
    """Write a message to standard error, each of its lines marked as ours."""
    for line in text.splitlines() or [""]:
        click.echo(f"phantom: {line}", err=True)


class Program(click.Group):
    """A group whose commands are imported when needed and whose failures are single lines."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.target.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the program; in standalone mode this ends the process."""

        def run() -> Any:
            return super(Program, self).main(
                args,
                prog_name or "phantom",
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )

        return _run(run) if standalone_mode else run()


def _run(program: Callable[[], Any]) -> NoReturn:
    """Call `program` and exit; every failure that a user can cause is a line or two."""
    try:
        status = program()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        status = error.exit_code
    except click.UsageError as error:
        if error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        complain(error.format_message())
        status = error.exit_code
    except click.ClickException as error:
        complain(error.format_message())
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except PhantomError as error:
        complain(str(error))
        status = FAILURE
    except BrokenPipeError:
        status = FAILURE
    except OSError as error:
        complain(error.strerror or "an operation failed")
        status = FAILURE
    # A command that returns normally returns None; click hands an exit status over as int.
    status = status if isinstance(status, int) else 0
    _finish_output()
    sys.exit(status)


def _finish_output() -> None:
    """Keep the interpreter from complaining about what it cannot write at exit."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:  # closed before the program began
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            # What is left in the buffer goes nowhere, in silence, whatever is flushed later.
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            except (OSError, ValueError):
                pass


@click.group(
    "phantom",
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 90},
    epilog="The programs themselves run under twistd: twistd phantom-server --config FILE, "
    "twistd -n phantom-client [--config FILE].",
)
@click.version_option(__version__, message=version_line())
def main() -> None:
    """A tunnel for censored networks: SOCKS5 and HTTP proxies over an unremarkable link."""
