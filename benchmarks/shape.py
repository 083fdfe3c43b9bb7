"""What padding hides, what it costs, and what a trained classifier still sees (doc/audit.md).

::

    python -m benchmarks.shape pages --carrier tls --padding default --pages 100 --out rows.jsonl
    python -m benchmarks.shape pages --carrier tls --browser /usr/bin/chromium --out rows.jsonl
    python -m benchmarks.shape pages --carrier none --browser /usr/bin/chromium --out rows.jsonl
    python -m benchmarks.shape report rows.jsonl
    python -m benchmarks.shape classify rows.jsonl      # needs scikit-learn

`pages` loads pages of the audit's own site, each through a client of its own, and records what
a censor sees: sizes, directions and times.  The carrier `none` is the browser's visit to the site
itself, which is what the classifier is to tell a tunnel from.  The same seed gives the same pages.
Run it as root, so that the segments are the real ones.  Only loopback is used.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from benchmarks.report import markdown_row
from phantom.app.audit_pair import Pair, fresh_pair
from phantom.audit import browse
from phantom.audit.capture import sees_segments, watch
from phantom.audit.detectors.inner_tls import bursts, margin
from phantom.audit.flows import Flow, cut, quantile
from phantom.audit.site import DELAY, Site
from phantom.runtime import Runtime, steady, system_runtime
from phantom.telemetry import set_level

#: Packets after which nDPI's rule is tried: it stops at 25 itself.
DEPTHS = (25, 100, 300, 1000)
#: Bursts and packets that the classifier is shown of each connection.
BURSTS, PACKETS = 16, 32
#: Connections with fewer segments are no visits.
LEAST = 5


def seen(flow: Flow) -> dict[str, Any]:
    """Return what a censor sees of a connection, as far as it is compared here."""
    packets = cut(flow.segments)
    return {
        "up": sum(len(packet.data) for packet in packets if packet.up),
        "down": sum(len(packet.data) for packet in packets if not packet.up),
        "packets": len(packets),
        "margins": {depth: margin(flow, depth) for depth in DEPTHS},
        "bursts": [
            (burst.size if burst.up else -burst.size, burst.packets)
            for burst in bursts(flow, 1000)[: 2 * BURSTS]
        ],
        "sizes": [
            (len(packet.data) if packet.up else -len(packet.data), packet.time - packets[0].time)
            for packet in packets[: 4 * PACKETS]
        ],
    }


class Pages:
    """Loads pages through one carrier and setting, and records what crosses the path."""

    def __init__(self, runtime: Runtime, options: argparse.Namespace, folder: Path) -> None:
        self._runtime, self._options, self._folder = runtime, options, folder
        self._chance = random.Random(options.seed)
        self._hello = browse.inner_hello()

    async def run(self) -> dict[str, Any]:
        """Return a row: what was done, how long it took, and each connection."""
        site = await deferToThread(Site, self._folder, DELAY)
        try:
            if self._options.carrier == "none":
                return await self._straight(site)
            return await self._through(site)
        finally:
            site.stop()

    async def _straight(self, site: Site) -> dict[str, Any]:
        watching = watch(site.port)
        try:
            seconds = [await self._page(None, site) for _ in range(self._options.pages)]
            return self._row(await deferToThread(watching.take), seconds, sees_segments(watching))
        finally:
            await deferToThread(watching.stop)

    async def _through(self, site: Site) -> dict[str, Any]:
        server, client = fresh_pair(self._runtime, self._folder, tls=self._options.carrier == "tls")
        choices = {"padding": self._options.padding, "timing": self._options.timing}
        pair = Pair(
            self._runtime,
            self._folder / "pair",
            attrs.evolve(server, **choices),
            attrs.evolve(client, **choices),
            site.port,
        )
        pair.start()
        watching = watch(pair.port)
        seconds = []
        try:
            for done in range(self._options.pages):
                if sys.stderr.isatty():
                    print(f"\r  page {done} of {self._options.pages}", end="", file=sys.stderr)
                one = await pair.client(watching.port)
                assert one.socks5_address is not None
                try:
                    seconds.append(await self._page(one.socks5_address[1], site))
                finally:
                    await one.stopService()
            return self._row(await deferToThread(watching.take), seconds, sees_segments(watching))
        finally:
            await deferToThread(watching.stop)
            await pair.stop()

    async def _page(self, proxy: int | None, site: Site) -> float:
        began = time.monotonic()
        await deferToThread(self._load, proxy, site)
        return time.monotonic() - began

    def _load(self, proxy: int | None, site: Site) -> None:
        browser = self._options.browser
        if browser is None:
            assert proxy is not None
            browse.load_page(proxy, site.port, self._hello, self._chance)
            return
        browse.load_in_fresh_browser(browser, proxy, site.port, self._chance)

    def _row(self, flows: list[Flow], seconds: list[float], real: bool) -> dict[str, Any]:
        options = self._options
        return {
            "carrier": options.carrier,
            "padding": options.padding,
            "timing": options.timing,
            "by": "own" if options.browser is None else "browser",
            "seed": options.seed,
            "pages": options.pages,
            "segments": real,
            "seconds": seconds,
            "flows": [seen(flow) for flow in flows if len(flow.segments) >= LEAST],
        }


def pages(options: argparse.Namespace) -> int:
    """Load pages, and add a row to the file."""
    if options.carrier == "none" and options.browser is None:
        print("--carrier none needs a --browser: it is a browser's own visit", file=sys.stderr)
        return 2
    reactor: Any = installed
    steady(reactor)
    set_level("error")
    failed: list[BaseException] = []

    async def run() -> None:
        with tempfile.TemporaryDirectory(prefix="shape-") as folder:
            Path(folder).chmod(0o755)
            row = await Pages(system_runtime(reactor), options, Path(folder)).run()
        with options.out.open("a") as file:
            print(json.dumps(row), file=file)

    def ended(result: object) -> None:
        if isinstance(result, Failure) and result.value is not None:
            failed.append(result.value)
        reactor.stop()

    def start() -> None:
        Deferred.fromCoroutine(run()).addBoth(ended)

    reactor.callWhenRunning(start)
    reactor.run()
    if failed:
        print(f"{type(failed[0]).__name__}: {failed[0]}", file=sys.stderr)
    return bool(failed)


def rows_of(path: Path) -> dict[tuple[str, str, str, str], list[dict[str, Any]]]:
    """Return the rows of a file by carrier, padding, timing and who loaded."""
    found = defaultdict(list)
    for line in path.read_text().splitlines():
        row = json.loads(line)
        found[row["carrier"], row["padding"], row["timing"], row["by"]].append(row)
    return found


def cells(*what: object) -> None:
    """Print a row of a Markdown table."""
    print(markdown_row(what))


def report(options: argparse.Namespace) -> int:
    """Print what nDPI's rule catches, and bytes and seconds of a page."""
    cells("carrier", "padding", "timing", "by", "pages", *DEPTHS, "KB a page", "up", "s a page")
    cells(*["---"] * (8 + len(DEPTHS)))
    for key, rows in rows_of(options.rows).items():
        flows = [flow for row in rows for flow in row["flows"]]
        count = sum(row["pages"] for row in rows)
        found = []
        for depth in DEPTHS:
            margins = [flow["margins"][str(depth)] for flow in flows]
            caught = sum(value < 0 for value in margins) / len(margins)
            found.append(f"{caught:.0%} ({quantile(margins, 0.1):.2f})")
        up = sum(flow["up"] for flow in flows) / count / 1000
        down = sum(flow["down"] for flow in flows) / count / 1000
        seconds = statistics.median(value for row in rows for value in row["seconds"])
        cells(*key, count, *found, f"{up + down:.1f}", f"{up:.1f}", f"{seconds:.2f}")
    return 0


def features(flow: dict[str, Any]) -> list[float]:
    """Return what the classifier is shown: the first bursts, the first packets, and sums."""
    vector: list[float] = []
    told = flow["bursts"][:BURSTS] + [(0, 0)] * BURSTS
    for size, packets in told[:BURSTS]:
        vector += [math.copysign(math.log1p(abs(size)), size), packets]
    sizes = flow["sizes"][:PACKETS] + [(0, 0.0)] * PACKETS
    vector += [size for size, _ in sizes[:PACKETS]]
    early = [size for size, _ in flow["sizes"]]
    ups, downs = [size for size in early if size > 0], [-size for size in early if size < 0]
    for some in (ups, downs):
        vector += [len(some), sum(some), statistics.mean(some or [0]), len(set(some))]
    return vector


def classify(options: argparse.Namespace) -> int:
    """Train a random forest to tell each way from the browser's own visits; five folds."""
    found = rows_of(options.rows)
    plain = [
        flow for key, rows in found.items() if key[0] == "none" for r in rows for flow in r["flows"]
    ]
    if not plain:
        print("no row of the carrier `none` to tell them from", file=sys.stderr)
        return 2
    try:
        ensemble = import_module("sklearn.ensemble")
        metrics = import_module("sklearn.metrics")
        selection = import_module("sklearn.model_selection")
    except ImportError:
        print("this needs scikit-learn: pip install scikit-learn", file=sys.stderr)
        return 2
    cells(
        "carrier", "padding", "timing", "by", "links", "visits", "AUC", "found, 1 % false", "0.1 %"
    )
    cells(*["---"] * 9)
    for key, rows in found.items():
        flows = [flow for row in rows for flow in row["flows"]]
        if key[0] == "none" or len(flows) < options.folds:
            continue
        table = [features(flow) for flow in flows + plain]
        truth = [1] * len(flows) + [0] * len(plain)
        folds = selection.StratifiedKFold(options.folds, shuffle=True, random_state=1)
        forest = ensemble.RandomForestClassifier(300, random_state=1)
        guess = selection.cross_val_predict(forest, table, truth, cv=folds, method="predict_proba")[
            :, 1
        ]
        false, true, _ = metrics.roc_curve(truth, guess)
        at = [
            max(t for f, t in zip(false, true, strict=True) if f <= limit)
            for limit in (0.01, 0.001)
        ]
        area = metrics.roc_auc_score(truth, guess)
        cells(*key, len(flows), len(plain), f"{area:.3f}", *(f"{share:.0%}" for share in at))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shape",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("pages", help=pages.__doc__)
    one.add_argument("--carrier", choices=("tls", "tcp", "none"), default="tls")
    one.add_argument("--padding", default="default", help="default: %(default)s")
    one.add_argument("--timing", default="off", help="off, default or aggressive")
    one.add_argument("--browser", help="a Chromium that loads them; default: our own loads")
    one.add_argument("--pages", type=int, default=60, help="default: %(default)s")
    one.add_argument("--seed", type=int, default=11, help="what the pages are made of")
    one.add_argument("--out", type=Path, required=True, help="gets one more line of JSON")
    one.set_defaults(run=pages)
    two = commands.add_parser("report", help=report.__doc__)
    two.add_argument("rows", type=Path)
    two.set_defaults(run=report)
    three = commands.add_parser("classify", help=classify.__doc__)
    three.add_argument("rows", type=Path)
    three.add_argument("--folds", type=int, default=5)
    three.set_defaults(run=classify)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except (OSError, ValueError, KeyError) as error:  # no file of rows
        print(f"{error or type(error).__name__}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
