"""What brokers and codecs were seen to do, against which the design was made, and where each is held: by a
test, a setting or a file.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.embedded import postgres
from gateway.settings import BrokerSettings

ROOT = Path(__file__).parents[2]

SESSION, BROKERS, FRAMING = (
    "integration/test_ingest_session.py",
    "integration/test_ingest_brokers.py",
    "property/test_framing.py",
)
FACTS = {
    "Receive Maximum is no bound on mosquitto 2.0.11: memory is bounded by reading no further": [
        (BROKERS, "test_reading_pauses_by_bytes_and_goes_on"),
        ("unit/test_pipeline.py", "test_reading_pauses_above_the_high_mark_and_resumes_below_the_low_one"),
    ],
    "the codec writes no Receive Maximum of 65535, and mosquitto then takes 20": [
        (SESSION, "test_connect_says_what_the_design_counts_on"),
        (SESSION, "test_the_default_receive_maximum_is_written_too"),
        ("unit/test_mqtt_facts.py", "test_settings_hold_what_no_packet_shows"),
    ],
    "the codec panics on invalid UTF-8": [
        (FRAMING, "test_invalid_utf8_makes_the_codec_panic"),
        (SESSION, "test_a_malformed_packet_ends_the_connection_and_not_the_daemon"),
    ],
    "expired messages stall a mosquitto session whose window is smaller than their number": [
        (BROKERS, "test_expired_messages_before_fresh_ones_do_not_stall_the_session"),
    ],
    "mosquitto drops what is larger than our Maximum Packet Size in silence: we send none and skip": [
        (SESSION, "test_connect_says_what_the_design_counts_on"),
        (SESSION, "test_oversized_packets_are_buried_and_acknowledged_between_the_others"),
        (FRAMING, "test_an_oversized_packet_between_others_is_seen_in_its_turn"),
    ],
    "rumqttd ignores our window, writes wrong topics with aliases and ends the connection over $SYS": [
        (BROKERS, "test_rumqttd_both_qualities"),
        (SESSION, "test_a_broker_that_refuses_its_counters_is_served_without"),
        (SESSION, "test_what_came_on_a_lost_connection_is_not_acknowledged_on_the_next"),
    ],
    "a shared subscription leaves messages with dead members: partitions are sessions of their own": [
        (SESSION, "test_connect_says_what_the_design_counts_on"),
        (BROKERS, "test_two_replicas_share_the_partitions_and_one_takes_over_what_the_other_left"),
    ],
    "whoever knows the gateway's client id can end its queue": [
        (BROKERS, "test_a_client_id_is_stable_and_cannot_be_guessed"),
    ],
    "without TCP_NODELAY mosquitto holds small packets back": [
        ("unit/test_mqtt_facts.py", "test_the_brokers_configuration_sends_small_packets_at_once"),
    ],
    "the wheel's own start of PostgreSQL gives up after ten seconds, and recovery can take longer": [
        ("unit/test_mqtt_facts.py", "test_settings_hold_what_no_packet_shows"),
    ],
}


@pytest.mark.parametrize("fact", FACTS)
def test_each_fact_is_held_by_tests_that_exist(fact: str) -> None:
    for file, name in FACTS[fact]:
        assert re.search(rf"^(?:async )?def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), (
            f"{file}: {name}"
        )


def test_settings_hold_what_no_packet_shows() -> None:
    with pytest.raises(ValueError, match="less than or equal to 65534"):
        BrokerSettings(receive_maximum=65535)
    assert BrokerSettings().receive_maximum == 65534
    assert postgres.START_SECONDS >= 300


def test_the_brokers_configuration_sends_small_packets_at_once() -> None:
    assert "\nset_tcp_nodelay true\n" in (ROOT / "mosquitto" / "mosquitto.conf").read_text()
