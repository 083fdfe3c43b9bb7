"""The specification says what the code does: examples, tables and numbers."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from phantom.config.schema_server import ServerConfig
from phantom.core import detached, freshness, handshake, opening, session, wire
from phantom.core.stream import TRANSITIONS, Event
from phantom.crypto import kdf
from phantom.crypto.records import RecordSealer
from phantom.errors import EXPLANATIONS, Outcome
from phantom.tunnel import (
    acknowledge,
    closing,
    frame,
    initiator,
    liveness,
    mux,
    post_quantum,
    registry,
    responder,
    server_clock,
    session_base,
    session_links,
)

ROOT = Path(__file__).resolve().parent.parent
WIRE = (ROOT / "doc" / "spec" / "wire.md").read_text()
HANDSHAKE = (ROOT / "doc" / "spec" / "handshake.md").read_text()
VECTORS = json.loads((ROOT / "tests" / "vectors" / "golden.json").read_text())


def section(page: str, title: str) -> str:
    """Return what stands under a heading, up to the next of any rank."""
    found = re.search(rf"(?ms)^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", page)
    assert found is not None, title
    return found[1]


def flat(page: str, title: str) -> str:
    """Return a section as one line."""
    return " ".join(section(page, title).split())


def rows(text: str) -> list[list[str]]:
    """Return the cells of a Markdown table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def spans(text: str) -> set[str]:
    """Return the code spans that are hexadecimal and long enough to be an example."""
    return {s for s in re.findall(r"`([0-9a-f]{10,})`", text) if len(s) % 2 == 0}


GOLDEN = {text for _, text in runpy.run_path(str(ROOT / "tests/core/test_wire.py"))["GOLDEN"]}


@pytest.mark.parametrize("example", sorted(GOLDEN))
def test_every_golden_frame_is_shown(example: str) -> None:
    assert f"`{example}`" in WIRE


def test_every_frame_shown_is_golden() -> None:
    shown = spans(WIRE) - spans(section(WIRE, "Records"))
    assert shown == GOLDEN


def test_frame_table() -> None:
    table = rows(section(WIRE, "Frames"))
    assert [(int(row[0], 16), row[1]) for row in table] == [
        (kind.value, f"`{kind.name}`") for kind in wire.FrameType
    ]
    for (_, _, stream, sequenced, payload), kind in zip(table, wire.FrameType, strict=True):
        if kind in wire.RESERVED:
            assert "reserved" in payload
        else:
            assert (stream == "0") == (kind in wire.ON_STREAM_ZERO)
            assert (sequenced == "yes") == wire.is_sequenced(kind)


def test_state_table() -> None:
    resets = (Event.SEND_RESET, Event.RECEIVE_RESET)
    assert rows(section(WIRE, "Streams")) == [
        [state.name, event.name, after.name]
        for (state, event), after in TRANSITIONS.items()
        if event not in resets
    ]


def test_outcome_table() -> None:
    assert rows(section(WIRE, "Outcomes")) == [
        [
            f"0x{outcome.value:02X}",
            f"`{outcome.name}`",
            str(told.socks),
            str(told.http),
            told.advice,
        ]
        for outcome, told in EXPLANATIONS.items()
    ]
    assert set(EXPLANATIONS) == set(Outcome)


def test_numbers_of_wire() -> None:
    limits = section(WIRE, "Limits, and what breaking them costs")
    for burst, rate in (
        (liveness.PING_BURST, liveness.PING_RATE),
        (frame.IDLE_BURST, frame.IDLE_RATE),
        (mux.CONTROL_BURST, mux.CONTROL_RATE),
        (mux.STRAY_BURST, mux.STRAY_RATE),
    ):
        assert f"{burst} at once, {rate:.0f} a second" in limits
    assert f"{mux.MAX_GOAWAYS} in a session" in limits
    assert f"{2 * session.MAX_RETAINED_FRAMES} " in limits
    assert f"{wire.MAX_RECORD_PLAINTEXT} bytes" in limits
    assert f"at most {wire.MAX_PAYLOAD} bytes" in flat(WIRE, "Frames")
    assert f"0 to {wire.MAX_PING} bytes" in section(WIRE, "Frames")
    sessions = flat(WIRE, "Sessions")
    for number in (
        f"{session.MAX_RETAINED_BYTES // 2**20} MiB or {session.MAX_RETAINED_FRAMES} frames",
        f"{-(-acknowledge.ACK_BYTES // 1024)} KiB, {acknowledge.ACK_FRAMES} frames or "
        f"{acknowledge.ACK_DELAY * 1000:.0f} ms",
        f"nothing is acknowledged for {acknowledge.STALL_TIMEOUT:.0f} s",
        f"only after {acknowledge.STALL_LIMIT:.0f} s",
        f"for a moment more ({session_links.SUPERSEDED_LINGER:.0f} s here)",
        f"DATA is cut to {session.SMALL_PAYLOAD} bytes",
        f"`detached_timeout`, {detached.DETACHED_TIMEOUT:.0f} s by default",
        f"{detached.DETACHED_MEMORY_PER_CLIENT // 2**20} MiB for one client and "
        f"{detached.DETACHED_MEMORY // 2**20} MiB in all",
        f"nothing was heard of it for {registry.SILENT:.0f} s",
        f"({registry.REMEMBERED_ENDS} of them are remembered)",
        f"the answer not come within {session_links.PROPOSAL_TIMEOUT:.0f} s",
    ):
        assert number in sessions, number
    assert f"{session_base.ACK_BURST} at once, {session_base.ACK_RATE:.0f} a second" in limits
    streams = flat(WIRE, "Streams")
    assert f"up to {wire.INITIAL_CREDIT} bytes before the reply" in streams
    drain = closing.STREAM_DRAIN_TIMEOUT
    assert f"no credit for more for {drain:.0f} to {2 * drain:.0f} s" in streams


def test_signs_of_life() -> None:
    text = flat(WIRE, "Keepalive")
    for number in (
        f"{ServerConfig.__attrs_attrs__.keepalive.default:.0f} s by default",
        f"varied by {liveness.JITTER * 100:.0f} % either way",
        f"{liveness.PROGRESS} bytes or more of one that is not complete",
        f"falls quiet for {liveness.QUIET[0]:.0f} to {liveness.QUIET[1]:.0f} s",
        f"{liveness.PATIENCE:.0f} s, or six round trips if that is more, at most "
        f"{liveness.MAX_PATIENCE:.0f} s",
    ):
        assert number in text, number
    assert (liveness.MISSES, liveness.PATIENCE_ROUND_TRIPS) == (2, 6)  # written out in the text


def test_small_records_on_new_links() -> None:
    text = flat(WIRE, "New links")
    assert f"at most {session.SMALL_RECORD} bytes" in text
    assert (
        f"until {freshness.FRESH_BYTES // 1024} KiB of them have been sent and acknowledged "
        f"within {freshness.FRESH_TIME:.0f} s" in text
    )


def test_the_attach_example_is_what_it_says() -> None:
    [example] = re.findall(r"`0d0000000026([0-9a-f]+)`", section(WIRE, "Sessions"))
    attach = wire.Attach.decode(memoryview(bytes.fromhex(example)))
    assert (
        f"epoch {attach.epoch}, lane {attach.lane}, status {attach.status}, "
        f"next sequence {attach.next_sequence}, received {attach.received}" in WIRE
    )


def test_the_instance_is_described() -> None:
    text = flat(HANDSHAKE, "The server's process")
    assert f"{handshake.INSTANCE_SIZE} random bytes" in text
    assert f"(`{Outcome.SESSION_LOST.name}`)" in text


def test_statuses_and_reasons() -> None:
    statuses = flat(WIRE, "Sessions").partition("Statuses:")[2].partition("Anything but")[0]
    assert re.findall(r"\b([0-9]+) ", statuses) == [str(s.value) for s in wire.AttachStatus]
    reasons = section(WIRE, "GOAWAY").partition("Reasons:")[2].partition("Unknown")[0]
    assert re.findall(r"\b([0-9]+) ", reasons) == [str(r.value) for r in wire.GoawayReason]


def test_record_example() -> None:
    key, record = re.findall(r"`([0-9a-f]{40,})`", section(WIRE, "Records"))
    sealer = RecordSealer(bytes.fromhex(key), handshake.Cipher.AESGCM)
    assert sealer.seal(b"record 0").hex() == record


def test_labels() -> None:
    for direction in ("client", "server"):
        assert f'`"{kdf.HEADER_LABEL.decode()}{direction}"`' in HANDSHAKE
    assert f'`"{kdf.PATH_LABEL.decode()}"`' in HANDSHAKE
    assert f'`"{kdf.MIX_LABEL.decode()}"`' in HANDSHAKE
    assert f'`"{kdf.LENGTH_LABEL.decode()}"`' in section(WIRE, "Records")
    assert f'`"{kdf.BODY_LABEL.decode()}"`' in section(WIRE, "Records")


def test_handshake_numbers() -> None:
    header = flat(HANDSHAKE, "Sealed header")
    assert (
        f"{handshake.MIN_REST_ONE} to {handshake.MAX_REST} in message 1, "
        f"{handshake.MIN_REST_TWO} to {handshake.MAX_REST} in message 2" in header
    )
    bare = flat(HANDSHAKE, "Bare TCP")
    assert f"{opening.MIN_PREFIX} to {opening.MAX_PREFIX} bytes" in bare
    assert f"at most {opening.MAX_HEAD} bytes" in flat(HANDSHAKE, "HTTP/1.1")
    for mode in handshake.Mode:
        assert f"| `{mode.name}` | {mode.value} |" in HANDSHAKE


def test_payload_fields() -> None:
    table = rows(section(HANDSHAKE, "Payload"))
    assert [(int(row[0], 16), row[1]) for row in table] == [
        (field.value, f"`{field.name}`") for field in handshake.Field
    ]
    for row, field in zip(table, handshake.Field, strict=True):
        size = row[2]
        payload = bytes((handshake.VERSION, field, 0, 1, 0))
        if size == "any":
            handshake.HandshakePayload.decode(payload)
        else:
            right = bytes((handshake.VERSION, field)) + int(size).to_bytes(2, "big")
            handshake.HandshakePayload.decode(right + bytes(int(size)))
    wires = {case["wire"] for case in VECTORS["payloads"]}
    assert spans(section(HANDSHAKE, "Payload")) <= wires


def test_handshake_check_values() -> None:
    [vector] = [v for v in VECTORS["handshakes"] if (v["mode"], v["cipher"]) == ("BARE", "AESGCM")]
    text = section(HANDSHAKE, "Check values")
    shown = [row[1].strip("`") for row in rows(text)]
    assert shown == [
        vector["server_public"],
        vector["e1"]["wire"],
        vector["header_1"],
        vector["prologue"],
    ]
    assert f"`{vector['secret_path']}`" in text


def test_post_quantum_check_values() -> None:
    vector = VECTORS["post_quantum"][0]
    table = rows(section(HANDSHAKE, "Post-quantum check values"))
    link = vector["exchange"]
    assert [row[1].strip("`") for row in table] == [
        vector["kem_secret"],
        link["handshake_hash"],
        link["client_send"],
        link["mixed_client_send"],
        vector["steps"][0]["name"],
        vector["steps"][0]["secret"],
    ]


def test_post_quantum_numbers() -> None:
    text = flat(HANDSHAKE, "Post-quantum")
    assert str(kdf.MIX_LABEL)[1:].strip("'") in text
    for label in (kdf.RATCHET_LABEL, kdf.STEP_LABEL):
        assert f'`"{label.decode()}"`' in text
    assert post_quantum.FRESH_EXCHANGE_AFTER == 3600 and "for an hour" in text
    assert post_quantum.KEEP_EXCHANGE == 7200 and "for two" in text
    assert f"up to {post_quantum.EXCHANGES_PER_CLIENT} exchanges" in text


def test_the_date_of_a_web_site() -> None:
    text = flat(HANDSHAKE, "Inside TLS")
    assert f"more than {server_clock.WORTH_CORRECTING:.0f} s from the client's clock" in text


def test_lengths_of_messages() -> None:
    text = flat(HANDSHAKE, "Payload")
    for low, high in (initiator.BARE_PADDING, initiator.BARE_KEY_PADDING, responder.REPLY_PADDING):
        assert f"{low} to {high}" in text
    assert "payload of {} to {}".format(*initiator.TLS_PAYLOAD) in text
    assert f"packets of at most {initiator.PACKET} bytes" in text
    assert "the first of {} to {}.".format(*initiator.FIRST_PACKET) in text
