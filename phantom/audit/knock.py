"""Asks a server and its decoy the same, and judges the answers.  Blocking, for threads."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from phantom.audit import prober
from phantom.audit.capture import sees_segments, watch
from phantom.audit.detectors import post_handshake, probing
from phantom.audit.flows import Flow
from phantom.audit.verdict import Verdict

#: How often each probe is sent, and how often, one by one, where times are compared.
_REPEATED, _TIMED = 2, 5
#: Seconds a prober stays silent after a handshake.
_AFTER_FINISHED = 0.4
#: Pairs of handshakes that are compared.
_HANDSHAKES = 3

_Answers = dict[str, list[probing.Reaction]]


def compare_handshakes(port: int, decoy: int, host: str) -> Verdict:
    """Compare the records of whole TLS handshakes.

    Args:
        port: The server's, on 127.0.0.1.
        decoy: That of the web server to be mistaken for.
        host: The name to ask for.

    Raises:
        OSError: A server cannot be reached.
    """
    ours, exactly = _handshakes(port, host)
    theirs, _ = _handshakes(decoy, host)
    return post_handshake.detect(ours, theirs, segments=exactly)


def _handshakes(port: int, host: str) -> tuple[list[Flow], bool]:
    seen = watch(port)
    try:
        for turn in range(_HANDSHAKES):
            alpn = ("http/1.1",) if turn % 2 else ("h2", "http/1.1")
            prober.handshake(seen.port, host, alpn, _AFTER_FINISHED)
        return seen.take(), sees_segments(seen)
    finally:
        seen.stop()


def probe_silent(port: int, host: str, seed: int, patience: float) -> Verdict:
    """Probe a server on bare TCP, which should say nothing.

    Args:
        port: The server's, on 127.0.0.1.
        host: The name for requests.
        seed: Decides the random probes.
        patience: Seconds of silence after which a connection counts as open.
    """
    probes = prober.raw_probes(host, random.Random(seed))
    return probing.detect_silence(prober.run(port, probes, patience=patience, repeat=_REPEATED))


def probe_web(
    port: int, decoy: int, host: str, seed: int, patience: float, hello: bytes
) -> Verdict:
    """Probe a server in TLS and its decoy, and compare.

    Args:
        port: The server's, on 127.0.0.1.
        decoy: That of the web server to be mistaken for.
        host: The name to ask for.
        seed: Decides the random probes.
        patience: Seconds of silence after which a connection counts as open.
        hello: A ClientHello of a real client.
    """
    probes = prober.raw_probes(host, random.Random(seed), hello)
    probes += prober.tls_probes(host, random.Random(seed))

    def ask(end: int) -> _Answers:
        return prober.run(end, probes, patience=patience, repeat=_REPEATED)

    # Both at the same time: most of it is waiting for silence to last.
    with ThreadPoolExecutor(2) as pool:
        ours, theirs = pool.map(ask, (port, decoy))
    answered = [
        probe
        for probe in probes
        if all(answer.size for answer in ours[probe.name] + theirs[probe.name])
    ]

    def measure(end: int) -> _Answers:
        return prober.run(end, answered, patience=patience, repeat=_TIMED, at_once=1, whole=False)

    return probing.detect(ours, theirs, (measure(port), measure(decoy)))


def replay(
    port: int, recorded: bytes, seed: int, patience: float, *, identical: bool = False
) -> _Answers:
    """Replay a first flight, as it was and changed; return the reactions.

    Args:
        port: The server's, on 127.0.0.1.
        recorded: What a client said before the server said anything.
        seed: Decides the changes.
        patience: Seconds of silence after which a connection counts as open.
        identical: Whether only the unchanged one is sent.
    """
    probes = prober.replays(recorded, random.Random(seed))[: 1 if identical else None]
    return prober.run(port, probes, patience=patience, repeat=_REPEATED)
