"""When BBR's start-up is tried again."""

from __future__ import annotations

from phantom.core.headroom import PENALTY, PENALTY_FACTOR, PROOF, Headroom

RTT = 0.2


class Path:
    """Samples of a path, ten a second."""

    def __init__(self) -> None:
        self.headroom = Headroom()
        self.now = 0.0

    def run(
        self,
        seconds: float,
        rate: float,
        *,
        queue: float = 0.001,
        starved: bool = False,
        least: float = RTT,
    ) -> int:
        restarts = 0
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            restarts += self.headroom.observe(
                self.now, rate=rate, round_trip=least + queue, least=least, starved=starved
            )
        return restarts


def test_a_busy_link_without_a_queue_is_restarted() -> None:
    path = Path()
    assert path.run(PROOF * RTT - 0.1, 1e6) == 0
    assert path.run(0.3, 1e6) == 1


def test_a_queue_proves_that_the_path_is_full() -> None:
    path = Path()
    for _ in range(20):
        assert path.run(PROOF * RTT / 2, 1e6) == 0
        assert path.run(0.1, 1e6, queue=0.02) == 0


def test_an_idle_link_proves_nothing() -> None:
    path = Path()
    for _ in range(20):
        assert path.run(PROOF * RTT / 2, 1e6) == 0
        path.headroom.pause()
    assert path.run(100, 1e6, starved=True) == 0


def test_short_paths_are_left_to_bbr() -> None:
    assert Path().run(100, 1e6, least=0.01) == 0


def test_tries_that_gain_go_on() -> None:
    path, rate, restarts = Path(), 1e6, 0
    for _ in range(4):
        restarts += path.run(PROOF * RTT + 0.15, rate)
        rate *= 2
    assert restarts == 4


def test_tries_in_vain_become_rare() -> None:
    path = Path()
    hour = path.run(3600, 1e6)
    assert 3 <= hour <= 6  # at about 0, 1, 5 and 21 minutes
    assert PENALTY * PENALTY_FACTOR**3 > 3600
