"""Systemic or specific: what holds whatever the connections are and however they fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.model.breaker import (
    MAX_PROBE_SECONDS,
    CallHealth,
    CallingConnections,
    Key,
    Scope,
    probe_interval_seconds,
    wait_seconds,
)
from gateway.model.incident import (
    MAX_REQUEST_IDS,
    QUIET,
    IncidentFinding,
    explained_by,
    is_calm,
    systemic,
    wanted,
)
from gateway.model.operation import Operation

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
WIDE = (Scope.HOST, Scope.SYSTEM)


@st.composite
def health(draw: st.DrawFn, number: int) -> CallHealth:
    failing = draw(st.booleans())
    last_failure = draw(st.integers(0, 400))
    return CallHealth(
        connection=f"c{number}",
        customer=draw(st.sampled_from(["a", "b", "c", "d", "e"])),
        system=draw(st.sampled_from(["erp", "cmms"])),
        host=draw(st.sampled_from(["", "x", "y"])),
        last_success_at=draw(st.one_of(st.none(), st.integers(0, 400).map(ago))),
        last_failure_at=(
            ago(last_failure) if failing else draw(st.one_of(st.none(), st.integers(0, 400).map(ago)))
        ),
        failing_since=ago(last_failure + draw(st.integers(0, 300))) if failing else None,
        failures=draw(st.integers(1, 9)) if failing else 0,
        operations=("push",) if failing else (),
        request_ids=tuple(f"r{number}-{i}" for i in range(draw(st.integers(0, 4)))),
    )


def ago(seconds: int) -> datetime:
    return NOW - timedelta(seconds=seconds)


@st.composite
def fleets(draw: st.DrawFn) -> list[CallHealth]:
    """Half of them without a success in the last minute, for those are the ones in which something may be
    systemic.
    """
    fleet = [draw(health(number)) for number in range(draw(st.integers(0, 12)))]
    if draw(st.booleans()):
        fleet = [
            replace(one, last_success_at=one.last_success_at and min(one.last_success_at, ago(60)))
            for one in fleet
        ]
    return fleet


def at(healths: Sequence[CallHealth]) -> CallingConnections:
    return CallingConnections(healths, now=NOW)


def findings(healths: Sequence[CallHealth], known: Sequence[Key] = ()) -> tuple[IncidentFinding, ...]:
    return wanted(at(healths), systemic(at(healths)), known=known)


def members(healths: Sequence[CallHealth], key: Key) -> list[CallHealth]:
    return [one for one in healths if key in one.keys]


def keys(fleet: Sequence[CallHealth], known: Sequence[Key] = ()) -> set[Key]:
    return {finding.key for finding in findings(fleet, known)}


def fails(one: CallHealth, since: datetime | None = None) -> CallHealth:
    return replace(one, last_success_at=None, last_failure_at=NOW, failing_since=since or ago(90), failures=4)


@given(fleet=fleets(), data=st.data())
def test_another_failure_never_makes_a_fault_smaller(fleet: list[CallHealth], data: st.DataObject) -> None:
    """Monotone: whatever is systemic stays so when one more of its connections fails, or a connection that
    fails is added.
    """
    key = (Scope.HOST, "x")
    fleet = [replace(one, host="x") for one in fleet]
    if not at(fleet).is_systemic(key):
        return
    more, since = data.draw(st.sampled_from([*range(len(fleet)), -1])), ago(data.draw(st.integers(0, 90)))
    changed = [
        fails(one, min(since, one.failing_since or since)) if number == more else one
        for number, one in enumerate(fleet)
    ]
    if more < 0:
        changed.append(fails(replace(data.draw(health(99)), host="x"), since))
    assert at(changed).is_systemic(key)


@given(fleet=fleets())
def test_one_customer_never_makes_a_systemic_incident_nor_do_two(fleet: list[CallHealth]) -> None:
    for customers in (("a",), ("a", "b")):
        own = [
            replace(fails(one), customer=customers[number % len(customers)])
            for number, one in enumerate(fleet)
        ]
        assert not systemic(at(own))
        assert not {scope for scope, _ in keys(own)} & set(WIDE)


@given(fleet=fleets())
def test_a_customers_connections_are_one_voice(fleet: list[CallHealth]) -> None:
    twice = [*fleet, *(replace(one, connection=f"{one.connection}-again") for one in fleet)]
    for key in {key for one in fleet for key in one.keys[1:]}:
        assert at(fleet).enough_fail(key) == at(twice).enough_fail(key)


@given(fleet=fleets(), data=st.data())
def test_a_success_within_the_minute_acquits_host_and_system(
    fleet: list[CallHealth], data: st.DataObject
) -> None:
    if not fleet:
        return
    lucky = data.draw(st.sampled_from(fleet))
    well = [
        replace(one, last_success_at=ago(data.draw(st.integers(0, 59)))) if one is lucky else one
        for one in fleet
    ]
    assert not {finding.key for finding in systemic(at(well))} & {
        (Scope.HOST, lucky.host),
        (Scope.SYSTEM, lucky.system),
    }


@given(fleet=fleets())
def test_what_answered_opens_nothing(fleet: list[CallHealth]) -> None:
    """A refused login, a 403, a 429 and a bad record leave no `failing_since`."""
    answered = [replace(one, failing_since=None, failures=0, last_failure_at=NOW) for one in fleet]
    assert not systemic(at(answered))
    assert not keys(answered)


@given(fleet=fleets())
def test_a_connection_has_one_incident(fleet: list[CallHealth]) -> None:
    """Of what is wanted, nothing is explained by another; and whoever's breaker is open alone for long has
    one.
    """
    found = keys(fleet)
    wide = [key for key in found if key[0] in WIDE]
    for key in found:
        assert explained_by(key, at(fleet), wide) is None, key
    for one in fleet:
        if (
            one.is_open(NOW)
            and one.failing_since is not None
            and NOW - one.failing_since >= timedelta(minutes=2)
        ):
            assert not found.isdisjoint(one.keys)


@given(fleet=fleets())
def test_the_same_verdict_again_while_its_incidents_are_open(fleet: list[CallHealth]) -> None:
    found = keys(fleet)
    again = keys(fleet, [key for key in found if key[0] in WIDE])
    assert again == found


@given(fleet=fleets())
def test_success_closes(fleet: list[CallHealth]) -> None:
    """After everybody has succeeded every incident is calm, and it is not while all that fails goes on
    failing.
    """
    opened_at = ago(30)
    well = [replace(one, failing_since=None, failures=0, last_success_at=ago(10)) for one in fleet]
    for finding in findings(fleet):
        assert not is_calm(finding.key, at(fleet), opened_at=max(opened_at, NOW)), finding
        assert is_calm(finding.key, at(well), opened_at=opened_at)
        assert is_calm(finding.key, at([]), opened_at=opened_at)


@given(fleet=fleets(), lucky=st.integers(0, 11))
def test_the_first_success_of_few_does_not_end_what_most_still_suffer(
    fleet: list[CallHealth], lucky: int
) -> None:
    failing = [fails(replace(one, customer=f"k{number}")) for number, one in enumerate(fleet)]
    one_well = [
        (
            replace(one, failing_since=None, failures=0, last_success_at=NOW)
            if number == lucky % max(1, len(failing))
            else one
        )
        for number, one in enumerate(failing)
    ]
    for finding in systemic(at(failing)):
        succeeded = any(one.last_success_at for one in members(one_well, finding.key))
        assert is_calm(finding.key, at(one_well), opened_at=ago(30)) is (
            succeeded and not at(one_well).enough_fail(finding.key)
        )


@given(fleet=fleets())
def test_without_a_success_it_is_not_over_though_few_still_try(fleet: list[CallHealth]) -> None:
    """An open breaker lets one call through now and then, so that few are seen to fail."""
    failing = [fails(replace(one, customer=f"k{number}")) for number, one in enumerate(fleet)]
    few = [
        one if number == 0 else replace(one, last_failure_at=ago(600)) for number, one in enumerate(failing)
    ]
    for finding in systemic(at(failing)):
        assert not is_calm(finding.key, at(few), opened_at=ago(30))


@given(fleet=fleets())
def test_a_finding_says_what_fails(fleet: list[CallHealth]) -> None:
    for finding in findings(fleet):
        failing = [one for one in members(fleet, finding.key) if one.is_failing(NOW)]
        assert {one.connection for one in failing} == set(finding.connections)
        assert finding.since == min(one.failing_since for one in failing if one.failing_since)
        assert len(finding.request_ids) <= MAX_REQUEST_IDS
        assert finding.detail
        if finding.key[0] in WIDE:
            assert len(finding.customers) >= 3


@given(attempt=st.integers(0, 10_000), rand=st.floats(0, 1, exclude_max=True))
def test_trials_come_after_1_to_60_seconds(attempt: int, rand: float) -> None:
    seconds = probe_interval_seconds(attempt, rand=rand)
    assert 1 <= seconds <= MAX_PROBE_SECONDS
    assert probe_interval_seconds(attempt + 1, rand=rand) >= seconds


@given(seconds=st.floats(-100, 1e6), rand=st.floats(0, 1, exclude_max=True))
def test_waits_are_short_and_never_before_the_trial(seconds: float, rand: float) -> None:
    assert min(max(0, seconds), 5) <= wait_seconds(seconds, rand=rand) <= 7.5


def test_the_numbers_of_the_rule() -> None:
    """Three customers and 30 %: 3 of 10 are enough, 3 of 11 are not; and quiet is two minutes."""

    def host(failing: int, of: int) -> list[CallHealth]:
        well = CallHealth(
            connection="",
            customer="",
            system="erp",
            host="x",
            last_success_at=ago(61),
            last_failure_at=None,
            failing_since=None,
            failures=0,
        )
        fleet = [replace(well, connection=f"c{number}", customer=f"k{number}") for number in range(of)]
        return [
            replace(one, failing_since=ago(60), last_failure_at=NOW, failures=1) if number < failing else one
            for number, one in enumerate(fleet)
        ]

    assert [
        at(host(failing, of)).is_systemic((Scope.HOST, "x"))
        for failing, of in ((3, 10), (3, 11), (4, 13), (4, 14), (2, 2))
    ] == [
        True,
        False,
        True,
        False,
        False,
    ]
    [finding] = systemic(at(host(3, 9)))
    assert finding.detail == "3 of 9 connections on host x fail (3 of 9 customers), none succeeded for 61 s"
    assert timedelta(minutes=2) == QUIET


def one(
    number: int,
    *,
    host: str = "x",
    system: str = "erp",
    failing: int | None = None,
    succeeded: int | None = 100,
) -> CallHealth:
    """Of a customer of its own; `failing` and `succeeded` in seconds ago."""
    return CallHealth(
        connection=f"c{number}",
        customer=f"k{number}",
        system=system,
        host=host,
        last_success_at=None if succeeded is None else ago(succeeded),
        last_failure_at=None if failing is None else NOW,
        failing_since=None if failing is None else ago(failing),
        failures=0 if failing is None else 3,
    )


def test_neighbours_that_fail_or_were_not_heard_since_prove_nothing_yet() -> None:
    suspect = one(1, failing=90)
    fails_too, not_heard, well = one(2, failing=50, succeeded=80), one(2, succeeded=95), one(2, succeeded=80)
    assert keys([suspect, fails_too]) == keys([suspect, not_heard]) == set()
    assert keys([suspect, well]) == keys([suspect]) == {(Scope.CONNECTION, "c1")}
    assert keys([one(1, failing=120), fails_too]) == {(Scope.CONNECTION, "c1")}


def test_what_the_system_explains_is_not_the_hosts() -> None:
    everywhere = [one(number, host="x" if number < 4 else "y", failing=90) for number in range(5)]
    assert {finding.key for finding in systemic(at(everywhere))} == {(Scope.SYSTEM, "erp"), (Scope.HOST, "x")}
    assert keys(everywhere) == {(Scope.SYSTEM, "erp")}
    assert explained_by((Scope.HOST, "x"), at(everywhere), {(Scope.SYSTEM, "erp")}) == (Scope.SYSTEM, "erp")
    another = one(9, system="cmms", failing=90)  # on the same host: the system does not explain all of it
    assert keys([*everywhere, another]) == {(Scope.SYSTEM, "erp"), (Scope.HOST, "x")}
    assert keys([one(number, failing=90) for number in range(5)]) == {
        (Scope.HOST, "x")
    }  # one host alone is not the system


@given(seconds=st.integers(0, 200), customers=st.integers(1, 6))
def test_a_host_is_at_fault_only_after_a_minute_in_which_enough_customers_fail(
    seconds: int, customers: int
) -> None:
    """Three customers that fail for a second are not systemic yet."""
    down = [
        CallHealth(
            connection=f"c{number}",
            customer=f"customer-{number}",
            system="erp",
            host="x",
            last_success_at=None,
            last_failure_at=NOW,
            failing_since=ago(seconds),
            failures=9,
            operations=("push",),
        )
        for number in range(customers)
    ]
    assert at(down).is_systemic((Scope.HOST, "x")) is (seconds >= 60 and customers >= 3)


@given(fleet=fleets(), probed=st.integers(0, 400))
def test_a_probe_says_nothing_of_pushes_that_fail(fleet: list[CallHealth], probed: int) -> None:
    """However lately any of them was probed well, the same is at fault, and stays so."""
    assume(not any(one.failing_since is None and one.last_success_at is None for one in fleet))
    seen = [replace(one, last_probe_at=ago(probed) if one.is_seen(NOW) else None) for one in fleet]
    assert {f.key for f in systemic(at(seen))} == {f.key for f in systemic(at(fleet))}
    for key in (f.key for f in systemic(at(fleet))):
        assert at(seen).held_back(key) in (Operation.PROBE, Operation.PUSH)
        assert not is_calm(key, at(seen), opened_at=NOW)


@given(since=st.integers(61, 200), pushed=st.integers(0, 60), probed=st.booleans())
def test_pulls_that_fail_hold_no_push_back(since: int, pushed: int, probed: bool) -> None:
    """Readings are delivered, or probes answered, while nobody's records can be read: only pulls are held
    back.
    """
    down = [
        CallHealth(
            connection=f"c{number}",
            customer=f"customer-{number}",
            system="erp",
            host="x",
            last_success_at=None if probed else ago(pushed),
            last_probe_at=ago(pushed) if probed else None,
            last_failure_at=NOW,
            failing_since=ago(since),
            failures=9,
            operations=("pull",),
        )
        for number in range(4)
    ]
    key = (Scope.HOST, "x")
    assert at(down).is_systemic(key) and at(down).held_back(key) is Operation.PULL
    both = [replace(one, operations=("pull", "push")) for one in down]
    assert at(both).held_back(key) is Operation.PROBE
    well = replace(down[0], last_pull_at=ago(1), failing_since=None, operations=())
    assert not at([*down[1:], well]).is_systemic(key)
