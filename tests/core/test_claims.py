"""The table of claims: who has which session."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from phantom.core.claims import REMEMBERED_ENDS, SLOTS, Claim, ClaimTable, table_size

ALICE, BOB = b"A" * 32, b"B" * 32


def session(number: int) -> bytes:
    return number.to_bytes(16, "big")


def table(buckets: int = 1) -> ClaimTable:
    """One bucket: whatever clients there are, they are neighbours."""
    return ClaimTable(bytearray(table_size(buckets)), buckets)


def test_a_session_has_one_owner() -> None:
    claims = table()
    assert claims.owner(ALICE, session(1)) == 0
    assert claims.claim(ALICE, session(1), 1, 4) is Claim.GRANTED
    assert claims.claim(ALICE, session(1), 2, 4) is Claim.TAKEN
    assert claims.owner(ALICE, session(1)) == 1
    # Another client's session of that name is another session.
    assert claims.owner(BOB, session(1)) == 0
    assert claims.claim(BOB, session(1), 2, 4) is Claim.GRANTED
    claims.end(ALICE, session(1))
    assert claims.owner(ALICE, session(1)) == 0
    assert claims.claim(ALICE, session(1), 1, 4) is Claim.ENDED
    assert claims.owner(BOB, session(1)) == 2


def test_a_client_has_so_many_in_all_workers_together() -> None:
    claims = table()
    for number in range(3):
        assert claims.claim(ALICE, session(number), number + 1, 3) is Claim.GRANTED
    assert claims.claim(ALICE, session(3), 1, 3) is Claim.FULL
    assert sorted(claims.owners(ALICE)) == [1, 2, 3]
    assert claims.claim(BOB, session(3), 1, 3) is Claim.GRANTED
    claims.end(ALICE, session(1))
    assert claims.claim(ALICE, session(3), 1, 3) is Claim.GRANTED


def test_what_a_crashed_worker_had_has_ended() -> None:
    claims = table(buckets=8)
    for number in range(6):
        assert claims.claim(ALICE, session(number), 1 + number % 2, 9) is Claim.GRANTED
    claims.end(ALICE, session(0))
    assert claims.bury(1) == 2
    assert claims.bury(1) == 0
    assert [claims.claim(ALICE, session(n), 3, 9) for n in range(6)] == [
        Claim.ENDED,
        Claim.TAKEN,
    ] * 3


def test_a_client_floods_its_own_memories_only() -> None:
    claims = table()
    assert claims.claim(BOB, session(0), 1, 4) is Claim.GRANTED
    claims.end(BOB, session(0))
    assert claims.claim(BOB, session(1), 1, 4) is Claim.GRANTED
    for number in range(1000):
        assert claims.claim(ALICE, session(number), 1, 4) is Claim.GRANTED
        claims.end(ALICE, session(number))
    assert claims.claim(BOB, session(0), 1, 4) is Claim.ENDED
    assert claims.owner(BOB, session(1)) == 1
    last = [claims.claim(ALICE, session(n), 1, 4) for n in range(1000 - REMEMBERED_ENDS, 1000)]
    assert last == [Claim.ENDED] * REMEMBERED_ENDS


def test_live_sessions_are_never_evicted() -> None:
    claims = table()
    for number in range(SLOTS):
        client = number.to_bytes(32, "big")
        assert claims.claim(client, session(0), 1, 1) is Claim.GRANTED
    assert claims.claim(ALICE, session(0), 1, 1) is Claim.FULL
    claims.end((5).to_bytes(32, "big"), session(0))
    assert claims.claim(ALICE, session(0), 1, 1) is Claim.GRANTED
    assert all(claims.owner(n.to_bytes(32, "big"), session(0)) for n in range(SLOTS) if n != 5)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["claim", "end", "bury"]),
            st.sampled_from([ALICE, BOB]),
            st.integers(0, 5),
            st.integers(1, 3),
        ),
        max_size=60,
    )
)
def test_it_behaves_like_a_dictionary(steps: list[tuple[str, bytes, int, int]]) -> None:
    claims = table(buckets=2)
    live: dict[tuple[bytes, int], int] = {}
    ended: set[tuple[bytes, int]] = set()
    for what, client, number, worker in steps:
        key = client, number
        if what == "claim":
            verdict = claims.claim(client, session(number), worker, 3)
            if key in live:
                assert verdict is Claim.TAKEN
            elif key in ended:
                assert verdict is Claim.ENDED
            elif sum(c == client for c, _ in live) >= 3:
                assert verdict is Claim.FULL
            else:
                assert verdict is Claim.GRANTED
                live[key] = worker
        elif what == "end":
            claims.end(client, session(number))
            if live.pop(key, None):
                ended.add(key)
        else:
            gone = {key for key, owner in live.items() if owner == worker}
            assert claims.bury(worker) == len(gone)
            ended |= gone
            live = {key: owner for key, owner in live.items() if key not in gone}
        for client, number in live:
            assert claims.owner(client, session(number)) == live[client, number]
