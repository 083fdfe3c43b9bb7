"""What is learned from links that fall silent."""

from __future__ import annotations

from phantom.core.freezes import LEAST, SUSPECT, Freezes


def test_one_silence_makes_wary_two_make_cautious() -> None:
    freezes = Freezes()
    assert not freezes.suspected and freezes.allowance is None
    freezes.link_lost(15_000, 20, fell_silent=True)
    assert freezes.suspected and freezes.allowance is None
    freezes.link_lost(14_000, 18, fell_silent=True)
    assert freezes.allowance == (8400, 10)


def test_a_link_that_carried_much_clears_the_path() -> None:
    freezes = Freezes()
    for _ in range(3):
        freezes.link_lost(15_000, 20, fell_silent=True)
    freezes.link_lost(SUSPECT, 500, fell_silent=True)
    assert not freezes.suspected and freezes.allowance is None


def test_a_reset_teaches_nothing() -> None:
    freezes = Freezes()
    for _ in range(3):
        freezes.link_lost(15_000, 20, fell_silent=False)
    assert not freezes.suspected


def test_the_allowance_leaves_room_for_an_attach() -> None:
    freezes = Freezes()
    for _ in range(2):
        freezes.link_lost(10, 1, fell_silent=True)
    assert freezes.allowance == LEAST
