"""What workers have in common: one process's words are the other's knowledge."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phantom.core.claims import Claim
from phantom.crypto.ratchet import Step, first_step
from phantom.tunnel.post_quantum import EXCHANGES_PER_CLIENT, KEEP_EXCHANGE, ServerSecrets
from phantom.tunnel.shared_memory import SharedClaims, SharedSecrets, make_claims, make_secrets

ALICE, BOB = b"A" * 32, b"B" * 32


@pytest.fixture
def claims_memory() -> Iterator[int]:
    descriptor = make_claims()
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def secrets_memory() -> Iterator[int]:
    descriptor = make_secrets()
    yield descriptor
    os.close(descriptor)


def first(number: int) -> Step:
    return first_step(number.to_bytes(32, "big"), b"hash")


def test_a_step_is_what_it_was() -> None:
    step = first(7).next()
    again = Step.decode(step.encode())
    assert again == step
    assert again.next() == step.next()


def test_processes_race_for_sessions(claims_memory: int) -> None:
    """Each session is granted to one of them, whoever asks at the same time."""
    sessions = [(number.to_bytes(32, "big"), bytes(16)) for number in range(400)]
    readers = []
    for incarnation in (1, 2, 3):
        reading, writing = os.pipe()
        if not os.fork():
            try:
                claims = SharedClaims(claims_memory, incarnation)
                for client, session_id in sessions:
                    os.write(writing, claims.claim(client, session_id, 4).name[:1].encode())
            finally:
                os._exit(0)
        os.close(writing)
        readers.append(reading)
    answers = []
    for reading in readers:
        with os.fdopen(reading, "rb") as file:
            answers.append(file.read().decode())
    for _ in readers:
        os.wait()
    for answer in zip(*answers, strict=True):
        assert sorted(answer) == ["G", "T", "T"]
    assert len(answers[0]) == len(sessions)


def test_a_killed_process_does_not_keep_the_lock(claims_memory: int) -> None:
    pid = os.fork()
    if not pid:
        with SharedClaims(claims_memory, 1)._locked():
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    claims = SharedClaims(claims_memory, 2)
    assert claims.claim(ALICE, bytes(16), 4) is Claim.GRANTED
    assert claims.owner(ALICE, bytes(16)) == 0
    assert SharedClaims(claims_memory, 3).owner(ALICE, bytes(16)) == 2


def test_a_secret_of_one_worker_is_the_others(secrets_memory: int) -> None:
    one, two = SharedSecrets(secrets_memory), SharedSecrets(secrets_memory)
    step = first(1)
    one.learned(ALICE, step, 100.0)
    assert two.find(ALICE, step.name, 101.0) == step
    assert two.find(BOB, step.name, 101.0) is None
    two.used(ALICE, step.next())
    assert one.find(ALICE, step.name, 102.0) is None
    assert one.find(ALICE, step.next().name, 102.0) == step.next()
    assert one.find(ALICE, step.next().next().name, 102.0) == step.next().next()
    assert one.find(ALICE, step.next().name, 100.0 + KEEP_EXCHANGE) is None


def test_what_is_over_can_be_found_in_memory_no_more(secrets_memory: int) -> None:
    secrets = SharedSecrets(secrets_memory)
    step = first(1)
    secrets.learned(ALICE, step, 0.0)
    secrets.used(ALICE, step.next())
    assert step.secret not in secrets._memory[:]
    assert step.encode()[-32:] not in secrets._memory[:]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["learned", "used", "used next", "later"]),
            st.sampled_from([ALICE, BOB]),
            st.integers(0, 9),
        ),
        max_size=40,
    )
)
def test_it_behaves_like_the_memory_of_one_process(steps: list[tuple[str, bytes, int]]) -> None:
    descriptor = make_secrets()
    try:
        shared, model = SharedSecrets(descriptor), ServerSecrets()
        now = 0.0
        known: list[tuple[bytes, Step]] = []
        for what, client, number in steps:
            now += 1.0
            if what == "learned":
                step = first(len(known))
                known.append((client, step))
                shared.learned(client, step, now)
                model.learned(client, step, now)
            elif what == "later":
                now += number * KEEP_EXCHANGE / 8
            elif known:
                whose, step = known[number % len(known)]
                step = step.next() if what == "used next" else step
                shared.used(whose, step)
                model.used(whose, step)
            for whose, step in known:
                for wanted in (step, step.next(), step.next().next()):
                    assert shared.find(whose, wanted.name, now) == model.find(
                        whose, wanted.name, now
                    )
    finally:
        os.close(descriptor)


def test_a_client_has_so_many_exchanges(secrets_memory: int) -> None:
    secrets = SharedSecrets(secrets_memory)
    secrets.learned(BOB, first(99), 0.0)
    for number in range(EXCHANGES_PER_CLIENT + 3):
        secrets.learned(ALICE, first(number), float(number))
    found = [
        secrets.find(ALICE, first(n).name, 10.0) is not None
        for n in range(EXCHANGES_PER_CLIENT + 3)
    ]
    assert found == [False] * 3 + [True] * EXCHANGES_PER_CLIENT
    assert secrets.find(BOB, first(99).name, 10.0) == first(99)


def test_what_has_ended_is_erased(secrets_memory: int) -> None:
    """By the next that is learned in its bucket, or when its client comes back."""
    secrets = SharedSecrets(secrets_memory)
    size = os.fstat(secrets_memory).st_size
    secrets.learned(ALICE, first(1), 0.0)
    raw = first(1).encode()
    assert raw in os.pread(secrets_memory, size, 0)
    secrets.used(ALICE, first(1))
    assert secrets.find(ALICE, first(1).name, KEEP_EXCHANGE) is None
    assert not any(os.pread(secrets_memory, size, 0))
    secrets.learned(ALICE, first(1), 0.0)
    secrets.learned(ALICE, first(2), KEEP_EXCHANGE)
    assert raw not in os.pread(secrets_memory, size, 0)
    assert secrets.find(ALICE, first(2).name, KEEP_EXCHANGE) == first(2)
