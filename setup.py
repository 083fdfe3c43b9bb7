"""What may be compiled to C; everything else about packaging is in setup.cfg.

With ``PHANTOM_COMPILE=1`` the modules below are compiled by mypyc (decision 28).  The build backend
beside this file sets that where a wheel is built and a compiler is at hand.
"""

import os
import sys

from setuptools import Extension, setup

#: Where to build, if not in the tree.
FOLDER = os.environ.get("PHANTOM_BUILD", "build")

#: The path of a byte, and of a short connection.  A module may be here if its classes have one
#: base each and no decorator, and if nobody derives from them.
COMPILED = [
    "phantom/carriers/tls_quick.py",
    "phantom/core/blocks.py",
    "phantom/core/budget.py",
    "phantom/core/freshness.py",
    "phantom/core/received.py",
    "phantom/core/scheduler.py",
    "phantom/core/session.py",
    "phantom/core/stream.py",
    "phantom/core/unsent.py",
    "phantom/core/window.py",
    "phantom/core/wire.py",
    "phantom/crypto/records.py",
    "phantom/crypto/tls13.py",
    "phantom/fast/buffers.py",
    "phantom/fast/gathering.py",
    "phantom/fast/timeouts.py",
    "phantom/fast/turns.py",
    "phantom/outbound/direct.py",
    "phantom/outbound/tunnel.py",
    "phantom/relay.py",
    "phantom/tunnel/acknowledge.py",
    "phantom/tunnel/closing.py",
    "phantom/tunnel/frame.py",
    "phantom/tunnel/lane.py",
    "phantom/tunnel/lanes.py",
    "phantom/tunnel/liveness.py",
    "phantom/tunnel/mux.py",
    "phantom/tunnel/openings.py",
    "phantom/tunnel/session.py",
    "phantom/tunnel/session_base.py",
    "phantom/tunnel/session_links.py",
    "phantom/tunnel/session_log.py",
    "phantom/tunnel/session_sending.py",
    "phantom/tunnel/shaper.py",
    "phantom/tunnel/stream.py",
    "phantom/tunnel/stream_base.py",
    "phantom/tunnel/stream_receiving.py",
    "phantom/tunnel/stream_sending.py",
    "phantom/tunnel/waiters.py",
]

#: Checked as `mypy` does it, by setup.cfg, but for this Python, and without most of what phantom
#: imports: what comes from there has no types then, which is no mistake.
CHECKING = [
    f"--python-version={sys.version_info.major}.{sys.version_info.minor}",
    f"--cache-dir={FOLDER}/types",
    "--follow-imports=silent",
    "--ignore-missing-imports",
    "--allow-any-generics",
    "--allow-subclassing-any",
    "--allow-untyped-decorators",
    "--no-warn-redundant-casts",
    "--no-warn-return-any",
    "--no-warn-unused-ignores",
]


def compiled() -> list[Extension]:
    """Return the extensions to build, none unless asked for.

    Raises:
        SystemExit: mypyc does not take a module.
    """
    if os.environ.get("PHANTOM_COMPILE") != "1":
        return []
    from mypyc.build import mypycify  # only needed here

    # A file of C for each module, in one library: a third less memory than one for all, and what
    # modules call of each other stays as quick.
    return mypycify(
        [*CHECKING, *COMPILED],
        opt_level="3",
        debug_level="0",
        multi_file=True,
        target_dir=FOLDER,
        group_name="phantom",
    )


setup(ext_modules=compiled(), options={"build": {"build_base": FOLDER}})
