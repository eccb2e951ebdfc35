"""What the doctor makes of what it saw: each bound, what is severe, and what is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from gateway.model.connection import State
from gateway.model.credits import Account, Book, Pool
from gateway.model.credits import Holding as CreditHolding
from gateway.model.diagnosis import (
    Examined,
    Looked,
    Report,
    Severity,
    looked,
    named,
    not_made,
    problem,
    size,
    span,
    together,
    warning,
)
from gateway.model.diagnosis_broker import (
    MIN_PACKET_BYTES,
    BrokerFacts,
    BrokerNeeds,
    judge_access,
    judge_queue,
    judge_session,
)
from gateway.model.diagnosis_database import (
    DiskFacts,
    Follower,
    HoldingSession,
    ServerFacts,
    TableFacts,
    judge_bloat,
    judge_database_clock,
    judge_disk,
    judge_migrations,
    judge_replication,
    judge_server,
    judge_sessions,
    judge_transactions,
)
from gateway.model.diagnosis_trust import (
    Certificate,
    judge_certificates,
    judge_credentials,
    judge_keys,
    judge_systems_clocks,
)
from gateway.model.diagnosis_work import (
    PENDING_EVENTS,
    ROLES,
    DevicesFacts,
    HeldLease,
    Hook,
    Overdue,
    Stuck,
    Unwell,
    judge_connections,
    judge_credits,
    judge_devices,
    judge_leases,
    judge_retention,
    judge_streams,
    judge_webhooks,
)

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
P, W = Severity.PROBLEM, Severity.WARNING


def told(found: Looked) -> list[Severity]:
    """How severe each finding is; and each says what, where and what to do."""
    assert all(each.what and each.where and each.advice for each in found.findings)
    return [each.severity for each in found.findings]


def text(found: Looked) -> str:
    return " | ".join(f"{each.what} @ {each.where} > {each.advice}" for each in found.findings)


# The report


def test_a_report_is_healthy_while_nothing_was_found() -> None:
    bad, soon = problem("a", where="b", advice="c"), warning("a", where="b", advice="c")
    assert (bad.severity, soon.severity) == (P, W)
    assert looked([None, bad, None], [None, "why"]) == Looked(findings=(bad,), unseen=("why",))

    def report(*found: Looked) -> Report:
        return Report(at=NOW, seconds=1.0, checks=tuple(Examined(check="x", looked=each) for each in found))

    assert report().is_healthy and report(looked([]), not_made("why")).is_healthy
    sick = report(looked([]), looked([soon, bad]), looked([bad]))
    assert not sick.is_healthy and (sick.count(P), sick.count(W)) == (2, 1)


def test_a_check_at_several_places_says_once_what_it_could_not_see() -> None:
    bad = problem("a", where="b", advice="c")
    both = together([looked([bad], ["x", "y"]), looked([bad], ["y", "z"])])
    assert both == Looked(findings=(bad, bad), unseen=("x", "y", "z"))
    assert together([not_made("x"), looked([])]).made
    assert not together([not_made("x"), not_made("x")]).made
    said = [each.said for each in (both, looked([]), looked([], ["x"]), not_made("x"))]
    assert said[0].startswith("2 ") and len(set(said)) == 4


@pytest.mark.parametrize(
    ("count", "shown"), [(0, ""), (1, "n0"), (5, "n0, n1, n2, n3, n4"), (7, "n0, n1, n2, n3, n4 and 2 more")]
)
def test_five_are_named_and_the_rest_is_counted(count: int, shown: str) -> None:
    assert named(f"n{number}" for number in range(count)) == shown


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (172_799, "48 h"), (172_800, "2 d")],
)  # fmt: skip
def test_a_span_is_in_the_largest_unit_that_it_has_two_of(seconds: float, said: str) -> None:
    assert span(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1536 << 10, "1.5 MiB"), (1 << 30, "1.0 GiB"), (1 << 40, "1.0 TiB"), (1 << 50, "1024.0 TiB")],
)  # fmt: skip
def test_a_size_is_in_units_of_1024(count: int, said: str) -> None:
    assert size(count) == said


# The broker

BROKER = BrokerFacts(
    session_expiry_seconds=3600.0,
    max_packet_bytes=MIN_PACKET_BYTES,
    granted={"a/#": 1, "b/#": 2},
    sent=10,
    kept=10,
    dropped=0,
)
WANTED = BrokerNeeds(url="mqtt://b", session_expiry_seconds=3600.0, allows_qos0=False, overlaps=False)


@pytest.mark.parametrize(
    ("facts", "wanted", "found"),
    [
        ({}, {}, []),
        ({"refused": "not authorized"}, {}, [P]),
        ({"refused": "not authorized", "max_qos": 0, "has_retain": False}, {}, [P]),
        ({"max_qos": 1}, {}, []),
        ({"max_qos": 0}, {}, [P]),
        ({"max_qos": 0}, {"allows_qos0": True}, []),
        ({"has_retain": False}, {}, [P]),
        ({"has_identifiers": False}, {}, []),
        ({"has_identifiers": False}, {"overlaps": True}, [P]),
        ({"has_identifiers": True}, {"overlaps": True}, []),
        ({"session_expiry_seconds": 3599.0}, {}, [W]),
        ({"session_expiry_seconds": None, "max_packet_bytes": None}, {}, []),
        ({"max_packet_bytes": MIN_PACKET_BYTES - 1}, {}, [W]),
        ({"max_qos": 0, "has_retain": False, "max_packet_bytes": 9}, {}, [P, P, W]),
    ],
)
def test_the_session_that_the_gateway_needs(
    facts: Mapping[str, object], wanted: Mapping[str, object], found: list[Severity]
) -> None:
    seen = judge_session(replace(BROKER, **facts), replace(WANTED, **wanted))  # type: ignore[arg-type]
    assert told(seen) == found and all(each.where == WANTED.url for each in seen.findings)
    if facts.get("refused"):
        assert "not authorized" in text(seen)


@pytest.mark.parametrize(
    ("facts", "wanted", "found", "names"),
    [
        ({}, {}, [], ""),
        ({"granted": {"a/#": 128, "b/#": 127}}, {}, [P], "a/#"),
        ({"granted": {"a/#": 0, "b/#": 1}}, {}, [P], "a/#"),
        ({"granted": {"a/#": 0}}, {"allows_qos0": True}, [], ""),
        ({"granted": {"a/#": 0, "b/#": 135}}, {}, [P, P], "b/#"),
        ({"denied": {"x/y": "cannot be published", "x/z": "is not read"}}, {}, [P, P], "x/y"),
    ],
)
def test_what_the_gateways_account_may(
    facts: Mapping[str, object], wanted: Mapping[str, object], found: list[Severity], names: str
) -> None:
    seen = judge_access(replace(BROKER, **facts), replace(WANTED, **wanted))  # type: ignore[arg-type]
    assert told(seen) == found and names in text(seen)
    assert len(seen.unseen) == 1


@pytest.mark.parametrize(
    ("facts", "found", "unseen"),
    [
        ({}, [], 1),
        ({"resumed": False, "kept": 0}, [P], 1),
        ({"kept": 9}, [P], 1),
        ({"kept": None}, [], 2),
        ({"dropped": None, "kept": None}, [], 3),
        ({"dropped": 1}, [W], 1),
        ({"dropped": 1, "kept": 0}, [P, W], 1),
    ],
)
def test_what_the_broker_keeps(facts: Mapping[str, object], found: list[Severity], unseen: int) -> None:
    seen = judge_queue(replace(BROKER, **facts), WANTED)  # type: ignore[arg-type]
    assert (told(seen), len(seen.unseen)) == (found, unseen)


def test_without_a_session_nothing_else_is_known_of_the_broker() -> None:
    away = BrokerFacts(refused="away")
    assert not judge_access(away, WANTED).made and not judge_queue(away, WANTED).made
    assert judge_session(away, WANTED).made


# PostgreSQL

SERVER = ServerFacts(
    version=150_000,
    at=NOW,
    is_read_only=False,
    fsync=True,
    full_page_writes=True,
    synchronous_commit="on",
    autovacuum=True,
    synchronous_standbys="",
    server_sessions=100,
    used_sessions=89,
    role_sessions=-1,
    database_sessions=-1,
    transaction_age=1_000_000_000,
    sees_all=True,
    data_directory="/data",
    is_local=True,
    bytes=5 << 30,
    archiving_fails=False,
)


@pytest.mark.parametrize(
    ("changed", "found", "names"),
    [
        ({}, [], ""),
        ({"version": 149_999}, [P], "14"),
        ({"is_read_only": True}, [P], "no writes"),
        ({"fsync": False}, [P], "set fsync"),
        ({"fsync": False, "full_page_writes": False}, [P], "set fsync"),
        ({"full_page_writes": False}, [P], "set full_page_writes"),
        ({"synchronous_commit": "off"}, [P], "synchronous_commit"),
        ({"synchronous_commit": "local"}, [], ""),
        ({"version": 90_600, "is_read_only": True, "fsync": False, "synchronous_commit": "off"}, [P] * 4, "9"),
    ],
)  # fmt: skip
def test_a_server_that_the_promises_hold_on(
    changed: Mapping[str, object], found: list[Severity], names: str
) -> None:
    seen = judge_server(replace(SERVER, **changed))  # type: ignore[arg-type]
    assert told(seen) == found and names in text(seen)


@pytest.mark.parametrize(
    ("missing", "unknown", "found"),
    [([], [], []), (["0002"], [], [P]), ([], ["0003"], [P]), (["0002"], ["0003"], [P, P])],
)
def test_a_schema_of_this_version(missing: list[str], unknown: list[str], found: list[Severity]) -> None:
    seen = judge_migrations(missing, unknown)
    assert told(seen) == found and all(name in text(seen) for name in missing + unknown)


@pytest.mark.parametrize(
    ("changed", "needs", "replicas", "found", "names"),
    [
        ({}, 50, 1, [], ""),
        ({}, 51, 1, [W], "max_connections leaves 100"),
        ({}, 33, 2, [], ""),
        ({}, 34, 2, [W], "102"),
        ({}, 50, 0, [], ""),
        ({}, 51, 0, [W], "102"),
        ({"role_sessions": 20}, 11, 1, [W], "role's"),
        ({"role_sessions": 20}, 10, 1, [], ""),
        ({"role_sessions": 20, "database_sessions": 0}, 10, 1, [W], "database's"),
        ({"used_sessions": 90}, 1, 1, [P], "90 of 100"),
        ({"used_sessions": 90}, 51, 1, [W, P], "90 of 100"),
    ],
)
def test_sessions_for_all_replicas_and_one_that_starts(
    changed: Mapping[str, object], needs: int, replicas: int, found: list[Severity], names: str
) -> None:
    seen = judge_sessions(replace(SERVER, **changed), replica_needs=needs, replicas=replicas)  # type: ignore[arg-type]
    assert told(seen) == found and names in text(seen)


@pytest.mark.parametrize(
    ("holding", "found", "names"),
    [
        (HoldingSession(what="open", name="17", owner="ann", detail="psql", seconds=900), [W], "17 of ann (psql)"),
        (HoldingSession(what="open", name="17", owner="", detail="", seconds=900), [W], "session 17 "),
        (HoldingSession(what="waiting", name="18", owner="bob", detail="19, 20", seconds=90), [P], "19, 20"),
        (HoldingSession(what="waiting", name="18", owner="", detail="", seconds=90), [P], "session 18 "),
        (HoldingSession(what="prepared", name="x", owner="c", detail="db", seconds=300), [P], "rollback prepared 'x'"),
        (HoldingSession(what="prepared", name="x", owner="c", detail="db", seconds=299), [], ""),
    ],
)  # fmt: skip
def test_what_holds_others_back(holding: HoldingSession, found: list[Severity], names: str) -> None:
    seen = judge_transactions([holding], sees_all=True)
    assert told(seen) == found and names in text(seen) and not seen.unseen
    assert len(judge_transactions([], sees_all=False).unseen) == 1


STANDBY = Follower(what="standby", name="two", detail="streaming", holds=True, seconds=60, bytes=0)
SLOT = Follower(what="slot", name="old", detail="", holds=False, seconds=0, bytes=(1 << 30) + 1)


@pytest.mark.parametrize(
    ("standbys", "followers", "hosts", "sees_all", "found"),
    [
        ("", [], 1, True, []),
        ("", [STANDBY], 1, True, []),
        ("two", [STANDBY], 1, True, []),
        ("two", [replace(STANDBY, holds=False)], 1, True, [P]),
        ("two", [], 2, True, [P]),
        ("two", [replace(SLOT, bytes=0, holds=True)], 1, True, [P]),
        ("", [], 2, True, [P]),
        ("", [STANDBY], 2, True, [W]),
        ("two", [STANDBY], 2, True, []),
        ("two", [], 2, False, []),
        ("", [replace(STANDBY, seconds=61)], 1, True, [W]),
        ("", [replace(STANDBY, detail="catchup")], 1, True, [W]),
        ("", [replace(STANDBY, detail="")], 1, True, []),
        ("", [SLOT], 1, True, [W]),
        ("", [replace(SLOT, bytes=1 << 30)], 1, True, []),
        ("", [replace(SLOT, holds=True)], 1, True, []),
        ("", [replace(SLOT, detail="lost", seconds=900, bytes=0)], 1, True, []),
    ],
)
def test_a_second_place_for_what_is_committed(
    standbys: str, followers: list[Follower], hosts: int, sees_all: bool, found: list[Severity]
) -> None:
    server = replace(SERVER, synchronous_standbys=standbys)
    seen = judge_replication(server, followers, hosts=hosts, sees_all=sees_all)
    assert told(seen) == found
    assert len(seen.unseen) == (not sees_all and (bool(standbys) or hosts > 1))


def test_who_has_no_second_place_needs_not_see_it() -> None:
    assert not judge_replication(SERVER, [], hosts=1, sees_all=False).unseen
    assert judge_replication(replace(SERVER, synchronous_standbys="x"), [], hosts=1, sees_all=False).unseen


@pytest.mark.parametrize(
    ("free", "archiving_fails", "found"),
    [(150, False, []), (149, False, [W]), (50, False, [W]), (49, False, [P]), (150, True, [P]), (49, True, [P, P])],
)  # fmt: skip
def test_room_on_the_disk(free: int, archiving_fails: bool, found: list[Severity]) -> None:
    server = replace(SERVER, archiving_fails=archiving_fails)
    seen = judge_disk(server, DiskFacts(total=1000, free=free))
    assert told(seen) == found and not seen.unseen
    assert ("/data" in text(seen)) is (free < 150)
    hidden = judge_disk(server, None)
    assert told(hidden) == [P] * archiving_fails and len(hidden.unseen) == 1
    nowhere = judge_disk(replace(server, data_directory=None), DiskFacts(total=1000, free=1))
    assert nowhere.findings[-1].where == "database.dsn"


@pytest.mark.parametrize(
    ("changed", "dead", "found"),
    [
        ({}, 49, []),
        ({}, 50, [W]),
        ({}, 51, [W]),
        ({"autovacuum": False}, 0, [P]),
        ({"transaction_age": 1_000_000_001}, 0, [P]),
        ({"autovacuum": False, "transaction_age": 2_000_000_000}, 100, [P, W, P]),
    ],
)
def test_vacuum_keeps_up(changed: Mapping[str, object], dead: int, found: list[Severity]) -> None:
    tables = [TableFacts(name="samples", live=100 - dead, dead=dead, vacuumed_at=None)]
    seen = judge_bloat(replace(SERVER, **changed), tables)  # type: ignore[arg-type]
    assert told(seen) == found
    assert (f"{dead} of 100 rows" in text(seen) and "table samples" in text(seen)) is (W in found)


@pytest.mark.parametrize(
    ("offset", "uncertain", "says"),
    [(2.0, 0.0, ""), (2.1, 0.0, "ahead"), (-2.1, 0.0, "behind"), (-2.0, 0.0, ""), (3.0, 1.0, ""), (3.1, 1.0, "3.1 s ahead")],
)  # fmt: skip
def test_the_clock_of_the_database(offset: float, uncertain: float, says: str) -> None:
    seen = judge_database_clock(offset, uncertain)
    assert told(seen) == [W] * bool(says) and says in text(seen)


# Our own work


def test_clocks_of_systems() -> None:
    seen = judge_systems_clocks({"a": 60.0, "b": 61.0, "c": -61.0, "d": -60.0, "e": None, "f": 0.0})
    assert [(each.severity, each.where) for each in seen.findings] == [(W, "b"), (W, "c")]
    assert "ahead" in seen.findings[0].what and "behind" in seen.findings[1].what
    assert len(seen.unseen) == 1 and "e" in seen.unseen[0]
    assert not judge_systems_clocks({"a": 0.0}).unseen


@pytest.mark.parametrize(
    ("ends_at", "found", "says"),
    [
        (None, [P], "no such file"),
        (NOW, [P], "2026-03-10"),
        (NOW - DAY, [P], "2026-03-09"),
        (NOW + SECOND, [W], "0 days"),
        (NOW + 21 * DAY - SECOND, [W], "20 days"),
        (NOW + 21 * DAY, [], ""),
    ],
)
def test_certificates(ends_at: datetime | None, found: list[Severity], says: str) -> None:
    fault = "no such file" if ends_at is None else None
    seen = judge_certificates([Certificate(where="w", ends_at=ends_at, fault=fault)], ["hidden"], NOW)
    assert told(seen) == found and says in text(seen) and seen.unseen == ("hidden",)


@pytest.mark.parametrize(("ends_at", "found"), [(NOW, [P]), (NOW - SECOND, [P]), (NOW + SECOND, [W])])
def test_credentials(ends_at: datetime, found: list[Severity]) -> None:
    seen = judge_credentials([("acme-erp", "api_key", ends_at)], NOW)
    assert told(seen) == found
    assert (
        "api_key" in text(seen)
        and "connection acme-erp" in text(seen)
        and "reauthorize acme-erp" in text(seen)
    )


def test_keys_that_are_in_use_are_configured() -> None:
    seen = judge_keys([("k1", 7, "a"), ("k2", 8, "b")], frozenset({"k1"}))
    assert (
        told(seen) == [P]
        and "8 records" in text(seen)
        and "k2" in text(seen)
        and "connection b" in text(seen)
    )


@pytest.mark.parametrize(
    ("state", "for_", "lag", "found", "advice"),
    [
        (State.REAUTHORIZATION_REQUIRED, 0, 0, P, "reauthorize c"),
        (State.BLOCKED, 0, 0, P, "recheck c"),
        (State.DEGRADED, 3600, 0, None, ""),
        (State.DEGRADED, 3601, 0, W, "show c"),
        (State.DEGRADED, 3600, 3601, W, "show c"),
        (State.ACTIVE, 9999, 3600, None, ""),
        (State.ACTIVE, 9999, 3601, W, "show c"),
        (State.PAUSED, 9999, 3601, W, "show c"),
    ],
)
def test_connections_that_need_a_person_or_are_behind(
    state: State, for_: int, lag: int, found: Severity | None, advice: str
) -> None:
    unwell = Unwell(connection="c", state=state, since=NOW - for_ * SECOND, reason="because", lag_seconds=lag)
    seen = judge_connections([unwell], 0, NOW)
    assert told(seen) == ([] if found is None else [found]) and advice in text(seen) and not seen.unseen
    plain = judge_connections([replace(unwell, reason=None)], 3, NOW)
    assert "because" not in text(plain) and "3" in plain.unseen[0]
    assert found is None or ("because" in text(seen)) is (lag == 0)


@pytest.mark.parametrize(("replicas", "advice"), [(0, "start one"), (1, "recheck")])
def test_streams_that_nobody_works_on(replicas: int, advice: str) -> None:
    stuck = Stuck(connection="c", kind="outbound", seconds=600, error="odd")
    seen = judge_streams([stuck, replace(stuck, error=None)], replicas=replicas)
    assert told(seen) == [W, W] and advice in text(seen) and "connection c" in text(seen)
    assert ["odd" in each.what for each in seen.findings] == [True, False]


EVERY = frozenset({*ROLES, "ingest/0", "ingest/1"})
LEASE = HeldLease(name="outbox", owner="two", seconds=100.0, is_orphan=False)


@pytest.mark.parametrize(
    ("held", "names", "replicas", "found", "says"),
    [
        ([], EVERY, 1, [], ""),
        ([], EVERY - {"ingest/1"}, 1, [P], "partition 1"),
        ([], EVERY - {"outbox"}, 1, [W], "lease outbox"),
        ([], EVERY - {"records", "commands", "gateway_status"}, 2, [W] * 3, "lease records"),
        ([], frozenset(), 0, [P], "no gateway"),
        ([LEASE], EVERY, 1, [], ""),
        ([replace(LEASE, seconds=101.0)], EVERY, 1, [W], "clock"),
        ([replace(LEASE, seconds=101.0)], EVERY, 0, [P, W], "clock"),
        ([replace(LEASE, is_orphan=True)], EVERY, 1, [W], "two is gone"),
        ([replace(LEASE, is_orphan=True)], EVERY, 0, [P], "no gateway"),
    ],
)
def test_each_part_of_the_work_has_a_replica(
    held: list[HeldLease], names: frozenset[str], replicas: int, found: list[Severity], says: str
) -> None:
    seen = judge_leases(held, names, replicas=replicas, partitions=2, lease_seconds=5.0)
    assert told(seen) == found and says in text(seen)


@pytest.mark.parametrize(
    ("age_days", "readers", "buffer_days", "says"),
    [
        (10, ["a"], 7, "was not dropped"),
        (9, ["a"], 7, "nothing"),
        (8, ["a"], 7, "2026-03-10"),  # it goes today
        (5, ["a"], 7, "2026-03-13"),
        (5, ["a"], 3, "nothing"),  # it may go since yesterday: that is within the grace
        (5, ["a"], 2, "was not dropped"),
        (1, [], 7, "nothing"),
        (2, [], 7, "was not dropped"),
    ],
)
def test_days_past_their_retention_go(age_days: int, readers: list[str], buffer_days: int, says: str) -> None:
    day = date(2026, 3, 10) - timedelta(days=age_days)
    seen = judge_retention([Overdue(name="t", day=day, readers=readers)], NOW, timedelta(days=buffer_days))
    if says == "nothing":
        assert told(seen) == []
    else:
        assert told(seen) == [W] and says in text(seen) and str(day) in text(seen) and "table t" in text(seen)
        assert ("kept for a" in text(seen)) is says.startswith("2026")


HOOK = Hook(
    endpoint="h",
    url="https://h",
    pending=PENDING_EVENTS,
    failing_since=None,
    last_error=None,
    disabled_at=None,
    disabled_reason=None,
)


@pytest.mark.parametrize(
    ("changed", "found", "advice"),
    [
        ({}, [], ""),
        ({"pending": PENDING_EVENTS + 1}, [W], "faster"),
        ({"failing_since": NOW - HOUR}, [], ""),
        ({"failing_since": NOW - HOUR - SECOND, "last_error": "500"}, [W], "webhooks test h"),
        ({"disabled_at": NOW, "disabled_reason": "gone", "last_error": "500"}, [P], "webhooks enable h"),
        ({"disabled_at": NOW, "failing_since": NOW - 9 * HOUR, "pending": 10**6}, [P], "webhooks enable h"),
    ],
)
def test_what_is_told_arrives(changed: Mapping[str, object], found: list[Severity], advice: str) -> None:
    seen = judge_webhooks([replace(HOOK, **changed)], NOW)  # type: ignore[arg-type]
    assert told(seen) == found and advice in text(seen)
    for known in ("last_error", "disabled_reason"):
        assert str(changed.get(known, "")) in text(seen)


@pytest.mark.parametrize(
    ("heard", "silent", "found"),
    [(HOUR, 0, []), (HOUR + SECOND, 3, [P]), (HOUR, 3, [W]), (9 * DAY, 0, [P])],
)
def test_devices_are_heard(heard: timedelta, silent: int, found: list[Severity]) -> None:
    facts = DevicesFacts(known=9, heard_at=NOW - heard, silent=silent, names=["pump"])
    seen = judge_devices(facts, NOW)
    assert told(seen) == found and seen.made
    assert ("pump" in text(seen)) is (found == [W])
    assert not judge_devices(replace(facts, heard_at=None), NOW).made


def book(used: int, *, capacity: int = 10, quota: int = 0, pool_says: int | None = None) -> Book:
    holding = CreditHolding(
        connection="c",
        customer="acme",
        tier=1,
        state=State.ACTIVE,
        prior=None,
        is_waiting=False,
        price=used,
        account=Account.POSTED if used else None,
        amount=used,
        since=NOW,
        ledger_held=0,
        ledger_posted=used,
    )
    pool = Pool(capacity=capacity, held=0, posted=used if pool_says is None else pool_says)
    return Book(
        pool=pool, quotas={"acme": quota} if quota else {}, holdings=[holding] if used else [], excess=None
    )


@pytest.mark.parametrize(
    ("kept", "found", "says"),
    [
        (book(7), [], ""),
        (book(8), [W], "8 of 10"),
        (book(10), [P], "10 of 10"),
        (book(0, capacity=0), [], ""),
        (book(5, quota=6), [], ""),
        (book(5, quota=5), [W], "acme uses 5 of the 5"),
        (book(5, pool_says=6), [P, P], "do not reconcile"),
        (replace(book(0), pool=None), [P], "do not reconcile"),
    ],
)
def test_credits_reconcile_and_are_left(kept: Book, found: list[Severity], says: str) -> None:
    seen = judge_credits(kept)
    assert told(seen) == found and says in text(seen)
