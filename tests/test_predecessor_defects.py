"""A program before this one had 22 defects.  For each, the tests that would fail with it.

The numbers are those of the list that was made of them.  A test that is renamed or removed
must leave something in its place here.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).resolve().parent


class Defect(NamedTuple):
    """What went wrong before, and the tests, ``file::function``, that notice it."""

    what: str
    tests: tuple[str, ...]


#: Those of which nothing is left to test: what they were in does not exist here.
NOT_BUILT = {18: "a carrier over DNS that could not work; there is none"}

DEFECTS = {
    1: Defect(
        "an empty list of clients admitted everyone",
        (
            "inbound/test_tunnel_inbound.py::test_an_empty_list_admits_nobody",
            "inbound/test_tunnel_inbound.py::test_whoever_is_not_on_the_list_is_not_answered",
            "app/test_cli_commands.py::test_check_warns_of_a_server_that_admits_nobody",
        ),
    ),
    2: Defect(
        "on bare TCP all first messages and all answers had one length and began alike",
        (
            "tunnel/test_noise_messages.py::test_nothing_on_bare_tcp_is_the_same_twice",
            "tunnel/test_noise_messages.py::test_no_two_first_messages_have_one_length",
            "core/test_opening.py::test_the_prefix_varies_and_keeps_its_rule",
            "crypto/test_elligator.py::test_every_bit_varies",
        ),
    ),
    3: Defect(
        "a replayed first message was answered and got a session; strangers were answered too",
        (
            "inbound/test_tunnel_inbound.py::test_a_first_message_is_answered_once",
            "inbound/test_tunnel_inbound.py::test_whoever_is_not_on_the_list_is_not_answered",
            "core/test_replay.py::test_once_only",
            "core/test_replay.py::test_the_window",
            "tunnel/test_dialer.py::test_a_wrong_clock_is_a_stranger",
            "e2e/test_strangers.py::test_bare_tcp_is_silent_to_garbage_and_replays",
            "e2e/test_strangers.py::test_a_replay_after_a_restart",
        ),
    ),
    4: Defect(
        "a thousand idle connections locked everyone out: the handshake had no time limit",
        (
            "inbound/test_tunnel_inbound.py::test_idle_visitors_make_room_for_a_real_client",
            "tunnel/test_noise_strangers.py::test_a_silent_visitor_becomes_a_stranger_in_time",
            "tunnel/test_link.py::test_a_link_that_never_attaches_is_dropped",
            "carriers/test_visitors.py::test_handshakes_are_bounded",
            "e2e/test_strangers.py::test_idle_visitors_lock_nobody_out",
        ),
    ),
    5: Defect(
        "six bytes from an authenticated peer ended the process",
        (
            "tunnel/test_small_bytes.py"
            "::test_six_bytes_end_no_more_than_the_session_of_who_sent_them",
            "tunnel/test_hostile_peer.py::test_breaking_a_rule_ends_the_session",
            "core/test_wire.py::test_random_records_raise_only_the_remote_error",
        ),
    ),
    6: Defect(
        "after 1024 streams in all, not at a time, the client took no more",
        (
            "tunnel/test_mux_sharing.py::test_thousands_of_streams_leave_nothing_behind",
            "tunnel/test_dialer.py::test_ids_that_run_out_start_a_fresh_session",
            "e2e/test_streams.py::test_two_thousand_quick_connections_leave_nothing",
        ),
    ),
    7: Defect(
        "each byte that was downloaded was also kept in a buffer nobody read",
        (
            "tunnel/test_kept_nowhere.py::test_what_was_delivered_is_kept_nowhere",
            "core/test_session_log.py::test_an_acknowledgement_gives_blocks_back",
        ),
    ),
    8: Defect(
        "send windows were declared and never consulted",
        (
            "tunnel/test_mux_sharing.py::test_a_stalled_reader_costs_its_window_and_delays_nobody",
            "tunnel/test_mux_sharing.py::test_many_stalled_readers_stay_within_the_session_memory",
            "tunnel/test_hostile_peer.py"
            "::test_overrunning_a_stalled_readers_window_ends_the_session",
            "core/test_window.py::test_the_sum_of_all_promises_stays_within_memory",
            "e2e/test_streams.py::test_stalled_readers_cost_little_and_hinder_nobody",
        ),
    ),
    9: Defect(
        "a program that had nothing more to send got its answer cut off",
        (
            "tunnel/test_mux.py::test_a_half_close_lets_the_other_direction_go_on",
            "test_relay_sockets.py::test_tcp_half_close",
            "tunnel/test_resume.py::test_half_closes_and_resets_survive",
            "e2e/test_streams.py::test_an_answer_to_all_that_was_sent",
        ),
    ),
    10: Defect(
        "programs were told of success before the server had dialled",
        (
            "outbound/test_tunnel_outbound.py"
            "::test_an_application_hears_of_success_when_the_server_is_connected",
            "outbound/test_tunnel_outbound.py::test_the_true_outcome_crosses_the_tunnel",
            "inbound/test_socks5.py::test_answers_only_when_connected_and_then_relays_both_ways",
            "inbound/test_http_tunnels.py"
            "::test_connect_answers_only_when_the_outbound_has_and_passes_on_what_came_early",
        ),
    ),
    11: Defect(
        "one failure ended reconnecting for good, and a lost link every stream",
        (
            "tunnel/test_dialer.py::test_it_tries_for_ever_with_growing_pauses",
            "tunnel/test_dialer.py::test_a_lost_link_is_dialled_anew",
            "tunnel/test_resume.py::test_a_transfer_survives_many_cuts",
            "e2e/test_cuts.py::test_a_transfer_both_ways_survives",
        ),
    ),
    12: Defect(
        "no SOCKS4a, no passwords, no plain HTTP (nor UDP, which is missing here as well); what "
        "was sent right behind CONNECT was lost",
        (
            "inbound/test_socks5.py::test_socks4a_is_answered_in_its_own_words",
            "inbound/test_socks5_failures.py::test_password",
            "inbound/test_socks5.py::test_early_data_stops_the_reading_and_arrives_in_order",
            "inbound/test_http.py::test_a_password_is_asked_for_and_the_connection_kept",
            "inbound/test_http.py::test_a_request_and_its_response",
            "inbound/test_http_tunnels.py"
            "::test_connect_answers_only_when_the_outbound_has_and_passes_on_what_came_early",
        ),
    ),
    13: Defect(
        "clients reached the server's loopback, its network and cloud metadata",
        (
            "core/test_egress.py::test_forbidden_by_default",
            "core/test_egress.py::test_own_addresses",
            "core/test_egress.py::test_embedded_forms_of_denied_addresses",
            "outbound/test_direct.py::test_name_that_leads_inside",
            "outbound/test_direct.py::test_every_address_is_judged",
            "e2e/test_curl.py::test_forbidden_and_timed_out",
        ),
    ),
    14: Defect(
        "anyone was told 200 before proving a key, in a protocol ALPN had not agreed on",
        (
            "tunnel/test_noise_strangers.py"
            "::test_inside_tls_a_visit_is_handed_over_at_the_first_byte_that_differs",
            "core/test_opening.py::test_http_strangers",
            "carriers/test_tls_sockets.py::test_server_chooses_like_nginx",
            "e2e/test_strangers.py::test_visitors_get_the_real_site",
        ),
    ),
    15: Defect(
        "TLS took public certificates only, pinned nothing, and had no browser's hello",
        (
            "carriers/test_tls_sockets.py::test_extra_authority",
            "carriers/test_tls_sockets.py::test_wrong_pin_shows_the_right_one",
            "carriers/test_tls_sockets.py::test_bad_certificates",
            "carriers/test_tls_sockets.py::test_hello_is_that_of_a_browsers_websocket",
        ),
    ),
    16: Defect(
        "resuming was announced, and could not work; here each link has keys of its own",
        (
            "tunnel/test_resume.py::test_cut_at_any_moment_everything_arrives_once",
            "tunnel/test_resume.py::test_cut_at_every_byte_of_a_small_exchange",
            "tunnel/test_link.py::test_a_stolen_session_id_is_worth_nothing",
        ),
    ),
    17: Defect(
        "the public key that was derived from a private one was unrelated to it",
        (
            "config/test_config_keys.py::test_public_key_of_a_published_pair",
            "crypto/test_golden.py::test_public_keys",
            "app/test_cli_commands.py::test_pubkey_reads_what_genkey_prints",
        ),
    ),
    19: Defect(
        "no padding at all was a division by zero",
        (
            "tunnel/test_noise_messages.py::test_without_any_padding_it_works_as_well",
            "core/test_handshake_payload.py::test_round_trip",
        ),
    ),
    20: Defect(
        "the configurations in its own documentation did not load",
        (
            "test_docs.py::test_configs_load",
            "config/test_config_reference.py::test_every_example_in_the_reference_loads",
        ),
    ),
    21: Defect(
        "logs named destinations, and secrets were written for everyone to read",
        (
            "e2e/test_operation.py::test_logs_name_no_destination_and_no_secret",
            "config/test_config_keys.py::test_a_written_key_file_is_private_and_reads_back",
            "app/test_cli_commands.py::test_genkey_writes_a_private_file",
            "config/test_config_secrets.py::test_secrets_in_a_file_that_everyone_can_read",
        ),
    ),
    22: Defect(
        "a new certificate needed a restart",
        (
            "e2e/test_reload.py::test_certificate",
            "carriers/test_tls_sockets.py::test_reload_keeps_what_works",
        ),
    ),
}


@functools.cache
def functions(path: Path) -> frozenset[str]:
    """Return the names of the tests in a file that pytest would run."""
    tree = ast.parse(path.read_text())
    return frozenset(
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and "pytest.mark.skip(" not in " ".join(map(ast.unparse, node.decorator_list))
    )


def test_no_number_is_missing() -> None:
    assert sorted({*DEFECTS, *NOT_BUILT}) == list(range(1, 23))
    assert not DEFECTS.keys() & NOT_BUILT.keys()


@pytest.mark.parametrize("number", DEFECTS)
def test_somebody_would_notice(number: int) -> None:
    what, tests = DEFECTS[number]
    assert tests and len(set(tests)) == len(tests)
    for node in tests:
        name, _, function = node.partition("::")
        path = TESTS / name
        assert path.is_file(), f"{what}: {name} is gone"
        assert function in functions(path), f"{what}: {node} is gone"
