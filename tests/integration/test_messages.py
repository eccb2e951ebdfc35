"""Dead messages: seen by whoever may, tried again without ever replacing what came later, let go of when
confirmed.
"""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import clock
from gateway.ingest.messages import Messages
from gateway.model.access import Role
from gateway.model.errors import ConfigError, RequestRefused
from gateway.model.preview import preview
from gateway.settings import Settings
from gateway.store import dead_letters
from gateway.store import messages as store
from gateway.store.dead_messages import DeadMessage, message_digest
from gateway.store.dead_messages import keep as keep_in
from gateway.store.messages import DeadMessageFilter
from gateway.store.pool import Database
from gateway.store.telemetry import TelemetryStore
from tests.fixtures.connection_rig import World
from tests.fixtures.http_rig import served
from tests.integration.test_ingest_fence import waits
from tests.integration.test_operating import Shell

USUAL = "{customer}/devices/{device}/telemetry"
HOUR = timedelta(hours=1)


def configured(
    *sources: dict[str, Any], customers: tuple[str, ...] = ("acme", "globex"), **more: Any
) -> Settings:
    return Settings.model_validate({
        "customers": list(customers),
        "security": {"encryption_keys": ["k" * 32]},
        "telemetry": {"sources": list(sources or ({"topic": USUAL},))},
        **more,
    })  # fmt: skip


def dead(
    payload: object,
    *,
    device: str = "d",
    customer: str | None = "acme",
    reason: str = "unmatched_topic",
    **more: Any,
) -> DeadMessage:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    topic = f"{customer or 'nobody'}/devices/{device}/telemetry"
    values = {"topic": topic, "detail": "because", "source": USUAL, **more}
    return DeadMessage(payload=body, reason=reason, customer=customer, **values)


async def bury(database: Database, *messages: DeadMessage) -> list[int]:
    """One after the other, so that their ids are in this order."""
    writer = TelemetryStore(database, register_customers=True)
    for message in messages:
        await writer.write([], [message])
    async with database.connection() as connection:
        found = await connection.fetch("select dead_letter_id from dead_letter order by 1")
    return [row["dead_letter_id"] for row in found][-len(messages) :]


async def take(database: Database, at: datetime, metrics: dict[str, Any], *, received: datetime) -> None:
    writer = TelemetryStore(database, register_customers=True)
    micros = int(at.timestamp() * 1e6)
    await writer.write([(("acme", "d", micros), metrics, int(received.timestamp() * 1e6))], ())


async def held(database: Database) -> list[tuple[str, str, Any, int]]:
    async with database.connection() as connection:
        found = await connection.fetch(
            "select customer_id, device_id, metrics, changes from telemetry order by customer_id,"
            " device_id, ts"
        )
    return [tuple(row) for row in found]


async def reasons(database: Database) -> dict[int, str]:
    async with database.connection() as connection:
        found = await connection.fetch("select dead_letter_id, reason from dead_letter order by 1")
    return {row["dead_letter_id"]: row["reason"] for row in found}


async def position(database: Database) -> int:
    async with database.connection() as connection:
        return int(await connection.fetchval("select coalesce(sum(position), 0) from customer_log"))


# Trying again


async def test_what_is_taken_is_gone_and_what_fails_again_stays_with_its_new_reason(
    database: Database,
) -> None:
    at = clock.now().replace(microsecond=0)
    good, broken, unknown, kept = await bury(
        database,
        dead({"ts": at.isoformat(), "t": 1}),
        dead(b"{", reason="unmatched_topic"),
        dead({"t": 1}, customer="initech", reason="invalid_json"),
        dead(b"head", reason="oversized_packet"),
    )
    found = await Messages(configured(), database).replay(DeadMessageFilter(), limit=10)
    assert (found.replayed, found.samples, found.failed_count, found.last) == (1, 1, 3, None)
    assert {one.id: one.reason for one in found.failed} == {
        broken: "invalid_json",
        unknown: "unknown_customer",
        kept: "oversized_packet",
    }
    assert await reasons(database) == {one.id: one.reason for one in found.failed}
    assert [(row[1], row[2]) for row in await held(database)] == [("d", {"t": 1})]
    again = await Messages(configured(), database).replay_these([good, broken])
    assert (again.replayed, again.failed_count) == (0, 1)
    assert await dead_letters.read(database, good) is None


async def test_a_replay_adds_what_is_missing_and_replaces_nothing_that_came_later(database: Database) -> None:
    """The device sent it again, corrected, and that was taken: what is delivered is the later value."""
    at = clock.now().replace(microsecond=0) - HOUR
    await bury(database, dead({"ts": at.isoformat(), "t": 1, "u": 2}))
    await take(database, at, {"t": 9}, received=clock.now() + HOUR)
    await Messages(configured(), database).replay(DeadMessageFilter(), limit=10)
    assert [row[2] for row in await held(database)] == [{"t": 9, "u": 2}]
    before = await position(database)
    await bury(database, dead({"ts": at.isoformat(), "t": 1, "u": 2}))
    found = await Messages(configured(), database).replay(DeadMessageFilter(), limit=10)
    assert found.replayed == 1 and await reasons(database) == {}
    assert await position(database) == before, "nothing is new: nothing is delivered"


async def test_a_replay_of_the_later_message_does_replace(database: Database) -> None:
    at = clock.now().replace(microsecond=0) - HOUR
    await take(database, at, {"t": 9, "v": 1}, received=at)
    await bury(database, dead({"ts": at.isoformat(), "t": 1}))
    await Messages(configured(), database).replay(DeadMessageFilter(), limit=10)
    assert [row[2] for row in await held(database)] == [{"t": 1, "v": 1}]


async def test_of_two_letters_of_one_instant_the_later_one_counts(database: Database) -> None:
    at = (clock.now() - HOUR).isoformat()
    await bury(database, *(dead({"ts": at, "t": value}) for value in (1, 2, 3)))
    found = await Messages(configured(), database).replay(DeadMessageFilter(), limit=10)
    assert found.replayed == 3 and [row[2] for row in await held(database)] == [{"t": 3}]


async def test_replays_at_once_take_each_message_once(database: Database) -> None:
    await bury(database, *(dead({"n": number}, device=f"d{number}") for number in range(20)))
    service = Messages(configured(), database)
    await asyncio.gather(*(service.replay(DeadMessageFilter(), limit=50) for _ in range(3)))
    rows = await held(database)
    assert len(rows) == 20 and all(row[3] == 0 for row in rows) and await reasons(database) == {}


async def test_what_comes_again_while_it_is_tried_stays(database: Database) -> None:
    [letter] = await bury(database, dead({"t": 1}))
    kept = await dead_letters.read(database, letter)
    assert kept is not None
    await bury(database, dead({"t": 1}))
    writer = TelemetryStore(database, register_customers=True)
    at = int(kept.first_at.timestamp() * 1e6)
    await writer.replay({("acme", "d", at): {"t": 1}}, at, letter, kept)
    assert list(await reasons(database)) == [letter] and len(await held(database)) == 1


async def test_what_the_broker_had_kept_is_still_no_reading_of_then(database: Database) -> None:
    await bury(database, dead({"t": -3}, is_retained=True), dead({"t": 4}))
    found = await Messages(configured(), database).replay(DeadMessageFilter(), limit=10)
    assert (found.replayed, found.samples) == (2, 1)
    assert [row[2] for row in await held(database)] == [{"t": 4}]


async def test_what_is_said_of_a_message_is_what_a_replay_does(database: Database) -> None:
    """Whatever it is a dead letter for: explained and tried again by the same rules, at the same times."""
    later = clock.now() + timedelta(days=2)
    own_time = {"topic": "own/{customer}/{device}", "format": "json", "retained": "own_time"}
    settings = configured({"topic": USUAL}, own_time)
    ids = await bury(
        database,
        dead({"t": 1}),
        dead({"t": 2}, is_retained=True),
        dead({"ts": clock.now().isoformat(), "t": 3}, is_retained=True),
        dead({"t": 4}, topic="own/acme/d", is_retained=True),
        dead({"ts": clock.now().isoformat(), "t": 5}, reason="timestamp_in_future"),
        dead({"ts": later.isoformat(), "t": 6}, reason="timestamp_in_future"),
        dead({"t": 7}, customer="initech"),
        dead(b"{"),
    )
    async with database.connection() as connection:  # it came when its time was still far away
        await connection.execute(
            "update dead_letter set first_at = first_at - interval '1 hour' where dead_letter_id = $1",
            ids[4],
        )
    asked = Messages(settings, database)
    for each in ids:
        told = await asked.one(each)
        assert told is not None and told.explanation is not None
        found = await asked.replay_these([each])
        assert told.explanation.dead_letter == (found.failed[0].reason if found.failed else None)
        assert len(told.explanation.samples) == found.samples
    assert sorted(row[2]["t"] for row in await held(database)) == [1, 3, 5]


async def test_devices_beyond_the_quota_stay_dead(database: Database) -> None:
    await bury(database, *(dead({"t": 1}, device=name, reason="too_many_devices") for name in ("a", "b")))
    found = await Messages(configured(quotas={"devices": 1}), database).replay(DeadMessageFilter(), limit=10)
    assert found.replayed == 1 and [one.reason for one in found.failed] == ["too_many_devices"]


async def test_a_bound_replay_never_writes_to_another_customer(database: Database) -> None:
    """The source was changed, and gives the topic to somebody else."""
    moved = configured({"topic": "acme/devices/{device}/telemetry", "customer": "globex"})
    [letter] = await bury(database, dead({"t": 1}, reason="invalid_json"))
    bound = await Messages(moved, database).replay(DeadMessageFilter(customer="acme"), limit=10, bound="acme")
    assert bound.failed_count == 1 and await held(database) == []
    assert await reasons(database) == {letter: "invalid_json"}
    assert (await Messages(moved, database).replay(DeadMessageFilter(), limit=10)).replayed == 1


async def test_filters_and_pages_reach_each_message_once(database: Database) -> None:
    ids = await bury(
        database,
        *(dead({"n": n}, device=f"d{n % 3}", reason=("invalid_json", "array")[n % 2]) for n in range(12)),
        dead({"n": 1}, customer="globex", source=None),
        dead({"n": 2}, customer=None, source=None, reason="array"),
    )
    expected = {
        DeadMessageFilter(): ids,
        DeadMessageFilter(customer="acme"): ids[:12],
        DeadMessageFilter(customer="acme", reason="array"): ids[1:12:2],
        DeadMessageFilter(reason="array"): [*ids[1:12:2], ids[13]],
        DeadMessageFilter(source=""): ids[12:],
        DeadMessageFilter(source=USUAL, topic="/d1/"): ids[1:12:3],
        DeadMessageFilter(topic="%"): [],
        DeadMessageFilter(up_to=ids[4]): ids[:5],
        DeadMessageFilter(customer=""): [],
    }
    for wanted, right in expected.items():
        seen: list[int] = []
        while True:
            page = await store.page(database, wanted, before=seen[-1] if seen else store.LAST_ID, limit=5)
            seen += [one.id for one in page]
            if len(page) < 5:
                break
        assert seen[::-1] == right, wanted
        assert await store.fitting(database, wanted) == len(right), wanted
        assert await store.ids(database, wanted, after=0, limit=100) == right, wanted
    counted = await store.counted(database, "acme")
    assert {(one.source, one.reason, one.messages) for one in counted.groups} == {
        (USUAL, "invalid_json", 6),
        (USUAL, "array", 6),
    }
    assert counted.newest == ids[11] and counted.complete
    service = Messages(configured(), database)
    with pytest.raises(RequestRefused, match="6 messages fit"):
        await service.discard(DeadMessageFilter(customer="acme", reason="array"), expected=5)
    await service.discard(DeadMessageFilter(customer="acme", reason="array"), expected=6)
    assert sorted(await reasons(database)) == sorted({*ids} - {*ids[1:12:2]})


async def test_messages_are_let_go_of_in_the_order_in_which_commits_count_them(database: Database) -> None:
    messages = sorted(
        (dead({"n": n}) for n in range(2)),
        key=lambda one: message_digest(one.topic, one.payload),
        reverse=True,
    )
    await bury(database, *messages)
    async with database.transaction() as commit:
        await keep_in(commit, messages[1:])
        wanted = DeadMessageFilter(customer="acme")
        discarding = asyncio.create_task(store.discard(database, wanted, expected=2))
        await waits(database, "kind = 'message' and dead_letter_id <= $5")
        await keep_in(commit, messages[:1])
    assert await discarding == 2
    assert not await reasons(database)


# Over HTTP and by commands


async def test_over_http_by_whoever_may(database: Database) -> None:
    body = b'{"t": 1}'
    mine, binary = await bury(
        database, dead(body, customer="globex"), dead(b"\x00\xffab", customer="globex", reason="invalid_json")
    )
    [other] = await bury(database, dead({"t": 2}))
    [nobodys] = await bury(database, dead({"t": 3}, customer=None, source=None))
    made = World(database)
    made.settings = made.settings.model_copy(update={"customers": ("acme", "globex")})
    async with served(made, Role.OPERATOR, "globex") as client:
        listed = (await client.get("/v1/messages")).json()["items"]
        assert [one["id"] for one in listed] == [binary, mine]
        assert [(one["preview"], one["is_binary"]) for one in listed] == [
            ("00 ff 61 62", True),
            ('{"t": 1}', False),
        ]
        summary = (await client.get("/v1/messages/summary", params={"customer": "acme"})).json()
        assert summary["items"] == [] and summary["newest"] == 0
        for hidden in (other, nobodys):
            for method, path in (("GET", ""), ("POST", "/replay"), ("DELETE", "")):
                answer = await client.request(method, f"/v1/messages/{hidden}{path}")
                assert answer.status_code == 404, (method, path)
        one = (await client.get(f"/v1/messages/{mine}")).json()
        assert base64.b64decode(one["payload_base64"]) == body and one["is_whole"]
        assert one["explanation"]["samples"][0]["metrics"] == {"t": 1} and one["advice"]
        done = (await client.post("/v1/messages/replay", json={"customer": "globex"})).json()
        assert (done["replayed"], done["failed_count"], done["next"]) == (1, 1, None)
        wrong = await client.post("/v1/messages/discard", json={"expected": 2})
        assert (wrong.status_code, wrong.json()["code"]) == (409, "request.conflict")
        assert (await client.post("/v1/messages/discard", json={"expected": 1})).json() == {"discarded": 1}
        quotas = (await client.get("/v1/quotas/globex")).json()
        assert quotas["quota"]["devices"] == 10_000 and quotas["devices"] == 1 and quotas["over"] == []
        assert (await client.get("/v1/quotas/acme")).status_code == 404
    assert sorted(await reasons(database)) == [other, nobodys]
    assert [(row[0], row[1]) for row in await held(database)] == [("globex", "d")]


async def test_replays_go_on_with_next(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http.api.messages.REPLAYED_AT_ONCE", 2)
    await bury(database, *(dead({"n": n}, device=f"d{n}") for n in range(5)))
    made = World(database)
    made.settings = made.settings.model_copy(update={"customers": ("acme",)})
    async with served(made, Role.OPERATOR) as client:
        counts, cursor = [], None
        while True:
            answer: httpx.Response = await client.post(
                "/v1/messages/replay", json={} if cursor is None else {"cursor": cursor}
            )
            counts.append(answer.json()["replayed"])
            cursor = answer.json()["next"]
            if cursor is None:
                break
    assert counts == [2, 2, 1] and await reasons(database) == {}


async def test_the_commands_list_try_again_and_discard(
    tmp_path: Path, dsn: str, empty_dsn: str, database: Database
) -> None:
    shell = Shell(tmp_path, dsn, empty_dsn)
    await bury(
        database,
        dead({"t": 1}),
        dead(b"{", reason="unmatched_topic", customer="globex"),
        dead(b"[", reason="array", customer="globex"),
    )
    listed = await asyncio.to_thread(
        shell.json, "dead-letters", "list", "--messages", "--customer", "globex", "--reason", "array"
    )
    assert [one["topic"] for one in listed] == ["globex/devices/d/telemetry"]
    done = await asyncio.to_thread(
        shell.run, "dead-letters", "replay", "--messages", "--reason", "unmatched_topic"
    )
    assert done.exit_code == 1 and "1 dead letter replayed, 1 stay" in done.stdout
    assert "invalid_json" in done.stdout
    assert sorted((await reasons(database)).values()) == ["array", "invalid_json"]
    for wrong in (
        ("replay", "--messages", "1"),
        ("replay", "--reason", "array"),
        ("list", "--messages", "--connection", "acme-1"),
        ("discard", "--customer", "globex"),
    ):
        assert isinstance(await asyncio.to_thread(shell.refused, "dead-letters", *wrong), ConfigError), wrong
    asked = await asyncio.to_thread(
        shell.refused, "dead-letters", "discard", "--messages", "--reason", "array"
    )
    assert isinstance(asked, ConfigError) and len(await reasons(database)) == 2, "nobody could be asked"
    gone = await asyncio.to_thread(
        shell.run, "dead-letters", "discard", "--messages", "--reason", "array", "--yes"
    )
    assert gone.exit_code == 0 and "1 dead message discarded" in gone.stdout
    assert list((await reasons(database)).values()) == ["invalid_json"]
    structlog.reset_defaults()


# What is shown of bytes


@settings(max_examples=500, deadline=None)
@given(data=st.binary(max_size=300) | st.text(max_size=100).map(str.encode), cut=st.integers(0, 300))
def test_whatever_was_sent_is_shown_without_what_cannot_be_seen(data: bytes, cut: int) -> None:
    head = data[:cut]
    for rows in (False, True):
        shown = preview(head, is_cut=len(head) < len(data), rows=rows)
        assert all(character.isprintable() or character in "\n\t" for character in shown.text)
        if shown.is_binary and not rows:
            assert bytes.fromhex(shown.text) == head


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'{"t": 1}', '{"t": 1}'),
        ("41,2 °C".encode(), "41,2 °C"),
        ("right\u202eleft and more of it".encode(), "right\\u202eleft and more of it"),
        (b"a text that ends\x00", "a text that ends\\x00"),
        (b"\x1f\x8b\x08", "1f 8b 08"),
        (b"", ""),
    ],
)
def test_a_preview(data: bytes, text: str) -> None:
    assert preview(data).text == text


def test_a_character_that_is_cut_is_no_binary() -> None:
    whole = "°C".encode()
    assert (
        preview(whole[:1], is_cut=True).text == "" and preview(b"20 " + whole[:1], is_cut=True).text == "20 "
    )
    assert preview(b"20 " + whole[:1]).is_binary
