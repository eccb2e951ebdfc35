"""Commands over MQTT as far as they are pure: whose a topic is, where answers may go, how many requests there
may be.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.command import (
    BURST,
    PER_SECOND,
    REPLY_BYTES,
    Allowance,
    commands_filter,
    may_reply_to,
    parse_topic,
    take,
)

ROOT = "fieldgate/v1"
OWN = f"{ROOT}/customers/acme/responses"


@pytest.mark.parametrize(
    ("topic", "customer", "verb"),
    [
        (f"{ROOT}/customers/acme/commands/status", "acme", "status"),
        (f"{ROOT}/customers/acme/commands/unknown", "acme", "unknown"),
        (f"{ROOT}/customers/a b/commands/status", None, None),
        (f"{ROOT}/customers//commands/status", None, None),
        (f"{ROOT}/customers/acme/commands/status/more", None, None),
        (f"{ROOT}/customers/acme/responses/status", None, None),
        ("fieldgate/v10/customers/acme/commands/status", None, None),
        ("customers/acme/commands/status", None, None),
    ],
)
def test_a_commands_topic_says_whose_it_is(topic: str, customer: str | None, verb: str | None) -> None:
    found = parse_topic(ROOT, topic)
    assert (found and found.customer, found and found.verb) == (customer, verb)


def test_every_customers_commands_are_subscribed() -> None:
    assert commands_filter(ROOT) == f"{ROOT}/customers/+/commands/+"


@pytest.mark.parametrize("topic", [f"{OWN}/1", f"{OWN}/a/b/c", f"{OWN}/ä", f"{OWN}/{'x' * 400}"])
def test_an_answer_may_go_below_the_customers_own_responses(topic: str) -> None:
    assert may_reply_to(ROOT, "acme", topic)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "answers",
        OWN,
        f"{OWN}/",
        f"{OWN}//a",
        f"{OWN}/a/",
        f"{OWN}/+",
        f"{OWN}/#",
        f"{OWN}/a+b",
        f"{OWN}/a\0b",
        f"{OWN}/a\nb",
        f"{OWN}/{'x' * 600}",
        f"{OWN}x/1",
        f"/{OWN}/1",
        f"{ROOT}/customers/globex/responses/1",
        f"{ROOT}/customers/acmes/responses/1",
        f"{ROOT}/customers/acme/connections/acme-1/status",
        f"{ROOT}/customers/acme/connections/acme-1/issues/1",
        f"{ROOT}/customers/acme/events/connection.activated",
        f"{ROOT}/customers/acme/commands/sync",
        f"{ROOT}/customers/acme/connections/acme-1/records/readings/1",
        f"{ROOT}/gateway/status",
        "acme/devices/pump-1/telemetry",
        "$SYS/broker/uptime",
    ],
)
def test_and_nowhere_else(topic: str) -> None:
    assert not may_reply_to(ROOT, "acme", topic)


@pytest.mark.parametrize("letter", ["x", "ä"])
def test_a_topic_for_answers_is_bounded_in_bytes(letter: str) -> None:
    room = REPLY_BYTES - len(f"{OWN}/") - (REPLY_BYTES - len(f"{OWN}/")) % len(letter.encode())
    longest = f"{OWN}/{letter * (room // len(letter.encode()))}"
    assert may_reply_to(ROOT, "acme", longest)
    assert not may_reply_to(ROOT, "acme", longest + letter)


@given(
    st.text(max_size=80),
    st.sampled_from(["", ROOT + "/", ROOT + "/customers/", OWN + "/", ROOT + "/customers/globex/"]),
)
def test_no_topic_leads_out_of_the_customers_responses(text: str, before: str) -> None:
    topic = before + text
    if may_reply_to(ROOT, "acme", topic):
        assert topic.startswith(OWN + "/")
        assert not set(topic) & {"+", "#", "\0"}


@given(st.lists(st.floats(0, 3), min_size=1, max_size=300))
def test_an_allowance_bounds_what_passes_in_any_time(waits: list[float]) -> None:
    allowance: Allowance | None = None
    now, passed = 0.0, 0
    for wait in waits:
        now += wait
        allowance, seconds = take(allowance, now)
        passed += seconds == 0
        assert passed <= BURST + PER_SECOND * (now - waits[0]) + 1e-6
        assert seconds <= 1 / PER_SECOND


def test_whoever_waits_as_told_is_let_in() -> None:
    allowance: Allowance | None = None
    for _ in range(int(BURST)):
        allowance, seconds = take(allowance, 7.0)
        assert seconds == 0
    allowance, seconds = take(allowance, 7.0)
    assert seconds > 0
    assert take(allowance, 7.0 + seconds + 1e-9)[1] == 0
    assert take(allowance, 7.0 + seconds - 1e-3)[1] > 0  # and nobody waits for longer than he must


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_an_allowance_is_an_account_of_requests(waits: list[float]) -> None:
    allowance: Allowance | None = None
    now, left = 100.0, BURST
    for wait in waits:
        now += wait
        left = min(BURST, left + wait * PER_SECOND)
        allowance, seconds = take(allowance, now)
        if left >= 1 + 1e-6:
            assert seconds == 0
        elif left < 1 - 1e-6:
            assert seconds == pytest.approx((1 - left) / PER_SECOND, abs=1e-6)
        left -= seconds == 0


def test_a_clock_that_was_set_back_gives_nothing() -> None:
    known = Allowance(left=0.5, at_seconds=100.0)
    assert take(known, 90.0) == (Allowance(left=0.5, at_seconds=90.0), 0.5 / PER_SECOND)
