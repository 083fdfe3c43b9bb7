"""Fixtures of tests with quick connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.quick import Wire, close_reactor, make_reactor
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure


# "ours": with what a process of phantom's own has, and a connection that its port accepted.
@pytest.fixture(params=["epoll", "select", "ours"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    reactor = make_reactor(request.param)
    made = Wire(reactor)
    yield made
    made.peer.close()
    if made.protocol.lost is None:
        made.quick.connectionLost(Failure(ConnectionDone()))
    close_reactor(reactor)
