"""What is learned from links that fall silent."""

from __future__ import annotations

from phantom.core.freezes import LEAST, SUSPECT, TIGHTEST, TRIAL, Freezes


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


def test_an_end_of_another_kind_teaches_nothing() -> None:
    freezes = Freezes()
    for _ in range(3):
        freezes.link_lost(15_000, 20, fell_silent=False)
    assert not freezes.suspected


def test_the_allowance_leaves_room_for_an_attach() -> None:
    freezes = Freezes()
    for _ in range(2):
        freezes.link_lost(10, 1, fell_silent=True)
    assert freezes.allowance == LEAST


def trial(freezes: Freezes) -> int:
    """Return how many links are replaced until one is left alone."""
    count = 0
    while freezes.allowance is not None:
        freezes.link_replaced()
        count += 1
    return count


def test_suspicion_is_tried_now_and_then_and_ever_more_rarely() -> None:
    freezes = Freezes()
    freezes.link_replaced()
    assert freezes.allowance is None, "a replacement for other reasons"
    for _ in range(2):
        freezes.link_lost(15_000, 20, fell_silent=True)
    for expected in (TRIAL[0], 2 * TRIAL[0], 4 * TRIAL[0]):
        assert trial(freezes) == expected
        freezes.link_lost(15_000, 20, fell_silent=True)
    assert trial(freezes) == 8 * TRIAL[0]
    freezes.link_lost(SUSPECT, 500, fell_silent=False)
    assert not freezes.suspected


def test_resets_count_and_make_nobody_hasty() -> None:
    freezes = Freezes()
    freezes.link_lost(5000, 9, fell_silent=False, reset=True)
    assert not freezes.lean and not freezes.suspected
    freezes.link_lost(5000, 9, fell_silent=False, reset=True)
    assert freezes.lean and freezes.allowance is None and not freezes.suspected


def test_links_that_live_clear_a_path_of_resets() -> None:
    for grew_old in (True, False):
        freezes = Freezes()
        for _ in range(3):
            freezes.link_lost(5000, 9, fell_silent=False, reset=True)
        assert freezes.lean
        if grew_old:
            freezes.link_replaced()
        else:
            freezes.link_lost(5000, 9, fell_silent=False)
        assert not freezes.lean


def test_the_link_of_a_trial_is_lean_like_the_others() -> None:
    freezes = Freezes()
    for _ in range(2):
        freezes.link_lost(15_000, 20, fell_silent=True)
    trial(freezes)
    assert freezes.lean
    freezes.link_lost(SUSPECT, 500, fell_silent=False)
    assert not freezes.lean


def test_a_link_that_has_sent_much_was_not_stopped_for_what_it_carried() -> None:
    """An upload brings little: acknowledgements, of far fewer bytes than any path lets through."""
    freezes = Freezes()
    for _ in range(4):
        freezes.link_lost(TIGHTEST - 1, 300, sent=SUSPECT, fell_silent=True)
    assert not freezes.suspected and not freezes.lean
    freezes.link_lost(15_000, 20, fell_silent=True)
    freezes.link_lost(TIGHTEST - 1, 300, sent=SUSPECT, fell_silent=True)
    assert freezes.suspected and not freezes.lean, "nor does it clear the path"
    freezes.link_lost(TIGHTEST, 300, sent=SUSPECT, fell_silent=True)
    assert freezes.lean, "it may have been what it brought"
