"""Tables and views of a real PostgreSQL: what is committed late, what a role may not see, what a column may
hold.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from benchmarks.servers import patient
from connectors.postgres.records import MAX_ROW_BYTES, Horizon
from connectors.postgres.streams import MAX_PAGE
from connectors.registry import SYSTEMS
from gateway.model.errors import BadConfiguration, PermissionDenied
from gateway.model.inbound import InboundRecord
from gateway.model.reading import make_batch
from gateway.model.record import keep
from tests.contract.harness import _settings, reading, recent

Owner = Any
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


@pytest.fixture
async def owner(contract_dsn: str) -> AsyncIterator[Owner]:
    session = await asyncpg.connect(contract_dsn)
    yield session
    await session.close()


@pytest.fixture
async def table(owner: Owner) -> str:
    name = f"work_{secrets.token_hex(4)}"
    await owner.execute(
        f"create table {name} (id int primary key, updated timestamptz not null default now(), state text"
        " default 'open')"
    )
    return name


def built(dsn: str, table: str, *, settings: Any = None, **stream: object) -> Any:
    wanted = {"table": table, "modified": "updated", **stream}
    return SYSTEMS["postgres"].build(
        _settings({"table": None, "streams": {"orders": wanted}, **(settings or {})}, {"dsn": dsn}, 5.0, None)
    )


async def walked(connector: Any, since: datetime | None, until: datetime) -> list[InboundRecord]:
    records: list[InboundRecord] = []
    cursor = None
    while True:
        page = await connector.pull("orders", since, until, cursor)
        records += page.records
        cursor = page.cursor
        if cursor is None:
            return records


async def followed(connector: Any, low: datetime | None) -> tuple[set[str], datetime]:
    """One run of the engine without a lookback."""
    high = await connector.remote_now("orders")
    return {record.key for record in await walked(connector, low, high)}, high


@pytest.mark.parametrize("may_see_others", [True, False], ids=["superuser", "ordinary role"])
async def test_what_is_committed_late_is_not_missed(
    contract_dsn: str, owner: Owner, table: str, may_see_others: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction stamps a row with its begin and commits it behind later ones. Without the horizon the run
    between would pass it for ever.
    """
    monkeypatch.setattr("connectors.postgres.records._MARGIN", timedelta(0))
    dsn = contract_dsn
    if not may_see_others:
        role = f"reader_{secrets.token_hex(4)}"
        await owner.execute(f"create role {role} login password 'x'; grant select on {table} to {role}")
        dsn = contract_dsn.replace("owner:not-a-secret", f"{role}:x")
    connector = built(dsn, table, settle_seconds=3600)
    seen, low = await followed(connector, None)
    assert seen == set()
    late = await asyncpg.connect(contract_dsn)
    transaction = late.transaction()
    await transaction.start()
    await late.execute("select now()")
    await owner.execute(f"insert into {table} (id) values (1)")
    await late.execute(f"insert into {table} (id) values (2)")
    more, low = await followed(connector, low)
    seen |= more
    assert "2" not in seen
    await transaction.commit()
    await late.close()
    async with patient(30):
        while "1" not in seen:
            more, low = await followed(connector, low)
            seen |= more
            await asyncio.sleep(0.02)
    assert seen == {"1", "2"}
    await connector.close()


async def test_nothing_open_means_now(contract_dsn: str, owner: Owner, table: str) -> None:
    connector = built(contract_dsn, table)
    now = await connector.remote_now("orders")
    assert timedelta(0) < datetime.now(UTC) - now < timedelta(seconds=30)
    await connector.close()


def test_the_horizon_is_the_oldest_that_may_still_stamp() -> None:
    now = datetime(2026, 11, 2, 10, tzinfo=UTC)

    def rows(at: datetime, *running: tuple[str, datetime | None], prepared: Any = None) -> Any:
        return [(at, False, None, prepared, name, begin) for name, begin in running or ((None, None),)]  # type: ignore[misc]

    horizon = Horizon()
    assert horizon.settled(rows(now), HOUR) == now - SECOND
    assert horizon.settled(rows(now, ("3/1", now - 90 * SECOND)), HOUR) == now - 90 * SECOND
    # whose begin is not shown: it was not there at the look before
    later = now + 60 * SECOND
    assert horizon.settled(rows(later, ("4/1", None)), HOUR) == now
    assert horizon.settled(rows(later + 60 * SECOND, ("4/1", None)), HOUR) == now, "remembered"
    assert horizon.settled(rows(later + 2 * HOUR, ("4/1", None)), HOUR) == later + HOUR, "not for ever"
    assert Horizon().settled(rows(now, ("4/1", None)), HOUR) == now - HOUR, "never looked before"
    assert Horizon().settled(rows(now, prepared=now - 60 * SECOND), HOUR) == now - HOUR
    standby = [(now, True, now - 5 * SECOND, None, None, None)]
    assert Horizon().settled(standby, HOUR) == now - HOUR - 5 * SECOND


async def test_a_table_that_does_not_fit_is_named(contract_dsn: str, owner: Owner, table: str) -> None:
    for stream, fault in (
        ({"table": "no_such"}, "there is no table or view public.no_such"),
        ({"key": "nothing"}, "no column nothing"),
        ({"modified": "state"}, "has to be timestamptz or timestamp"),
        ({"schema": "elsewhere"}, "elsewhere"),
    ):
        connector = built(contract_dsn, **{"table": table, **stream})  # type: ignore[arg-type]
        with pytest.raises(BadConfiguration, match=fault):
            await connector.pull("orders", None, recent())
        await connector.close()
    for stream, fault in (
        ({"select": ["id"], "progress": {"path": "state"}}, "state is read and not selected"),
        ({"time_zone": "Mars/Base"}, "no time zone"),
        ({"page": MAX_PAGE + 1}, "less than or equal"),
    ):
        with pytest.raises(BadConfiguration, match=fault):
            built(contract_dsn, table, **stream)  # type: ignore[arg-type]


async def test_a_role_that_may_not_read_is_blocked(contract_dsn: str, owner: Owner, table: str) -> None:
    role = f"stranger_{secrets.token_hex(4)}"
    await owner.execute(f"create role {role} login password 'x'")
    connector = built(contract_dsn.replace("owner:not-a-secret", f"{role}:x"), table)
    with pytest.raises(PermissionDenied):
        await connector.pull("orders", None, recent())
    await connector.close()


async def test_a_connection_that_only_reads_makes_and_writes_nothing(
    contract_dsn: str, owner: Owner, table: str
) -> None:
    role = f"reader_{secrets.token_hex(4)}"
    await owner.execute(f"create role {role} login password 'x'; grant select on {table} to {role}")
    connector = built(contract_dsn.replace("owner:not-a-secret", f"{role}:x"), table)
    assert (await connector.probe()).detail == "nothing is written"
    await connector.pull("orders", None, recent())
    with pytest.raises(BadConfiguration, match="writes nothing"):
        await connector.push(make_batch("c", [reading("m", recent(), 1.0)]))
    await connector.close()


async def test_any_columns_become_plain_json(contract_dsn: str, owner: Owner) -> None:
    name = f"odd_{secrets.token_hex(4)}"
    await owner.execute(
        f"""create table {name} (code char(8), part bit(3), "Last ""Change" timestamptz, exact numeric, real double precision,
            bytes bytea, list int[], doc jsonb, span interval, big bigint, primary key (code, part))"""
    )
    at = recent()
    for number in range(5):
        await owner.execute(
            f"insert into {name} values ($1, $2::text::bit(3), $3, 12345678901234567890.10, 'NaN', '\\x00ff',"
            " '{1,null}', '{\"a\": [1]}', '1 day', 9007199254740993)",
            f"c{number}",
            f"{number:03b}",
            at,
        )
    connector = built(contract_dsn, name, key=["code", "part"], modified='Last "Change', page=2)
    records = await walked(connector, at, at + SECOND)
    assert [record.key for record in records] == [f'["c{number}","{number:03b}"]' for number in range(5)]
    body = records[0].body
    assert body["exact"] == "12345678901234567890.10" and body["real"] == "NaN"
    assert body["big"] == 9007199254740993 and body["doc"] == {"a": [1]} and body["list"] == [1, None]
    assert {key for record in records for key in record.body} >= {'Last "Change', "span", "bytes"}
    listed: list[str] = []
    cursor = None
    while True:
        page = await connector.keys("orders", cursor)
        listed += page.keys
        cursor = page.cursor
        if cursor is None:
            break
    assert listed == [record.key for record in records]
    await connector.close()


async def test_an_empty_part_of_a_key_and_a_word_that_is_filled_with_blanks(
    contract_dsn: str, owner: Owner
) -> None:
    """The key of a row is the same whether all of it is read or its key alone: else it would be deleted while
    it is there. A word is compared without what fills its column.
    """
    name = f"stock_{secrets.token_hex(4)}"
    await owner.execute(
        f"create domain {name}_price as numeric; create table {name} (article text, variant char(4),"
        f" updated timestamptz, state char(8), gone char(3), price {name}_price, prices numeric[],"
        " primary key (article, variant))"
    )
    at = recent()
    await owner.execute(
        f"insert into {name} values ('A1', '', $1, 'open', '', 12345678901234567.89, '{{0.12345678901234567890}}'),"
        " ('A1', 'red', $1, 'done', 'yes', 1, null), ('', '', $1, 'open', '', 1.5, null)",
        at,
    )
    connector = built(
        contract_dsn,
        name,
        key=["article", "variant"],
        progress={"path": "state", "open": ["open"], "closed": ["done"]},
        deleted={"path": "gone", "words": ["yes"]},
    )
    records = await walked(connector, at, at + SECOND)
    unnamed, plain, red = records
    assert [record.key for record in (plain, red)] == ['["A1",""]', '["A1","red"]']
    assert [record.progress for record in records] == ["open", "open", "closed"]
    assert [record.is_deleted for record in records] == [False, False, True]
    assert (await connector.keys("orders")).keys == [unnamed.key, plain.key]
    kept = json.loads(keep(plain).body, parse_float=str)
    assert (kept["price"], kept["prices"]) == ("12345678901234567.89", ["0.12345678901234567890"])
    await owner.execute(f"update {name} set state = 'done' where article = ''")
    assert (await walked(connector, at, at + SECOND))[0].key == unnamed.key
    await connector.close()


async def test_a_row_without_a_key_and_a_row_too_large_are_told(
    contract_dsn: str, owner: Owner, table: str
) -> None:
    view = f"{table}_view"
    await owner.execute(f"create view {view} as select nullif(id, 2) as id, updated, state from {table}")
    await owner.execute(f"insert into {table} values (1, now(), repeat('x', 400000)), (2, now(), 'y')")
    until = datetime.now(UTC) + HOUR
    connector = built(contract_dsn, view)
    with pytest.raises(BadConfiguration, match="has null in id"):
        await connector.pull("orders", None, until)
    await connector.close()
    connector = built(contract_dsn, table)
    first = (await walked(connector, None, until))[0]
    assert list(first.body) == ["text"] and len(str(first.body["text"])) == MAX_ROW_BYTES
    await connector.close()


async def test_what_is_marked_as_deleted_and_raised_by_us(
    contract_dsn: str, owner: Owner, table: str
) -> None:
    await owner.execute(f"alter table {table} add removed_at timestamptz, add ref text")
    await owner.execute(
        f"insert into {table} values (1, now(), 'open', null, 'REF-1'), (2, now(), 'done', now(), null)"
    )
    connector = built(
        contract_dsn,
        table,
        progress={"path": "state", "open": ["open"], "closed": ["done"]},
        deleted={"path": "removed_at"},
        reference="ref",
    )
    one, two = await walked(connector, None, datetime.now(UTC) + HOUR)
    assert (one.is_deleted, one.progress, one.reference) == (False, "open", "REF-1")
    assert (two.is_deleted, two.progress, two.reference) == (True, "closed", None)
    assert (await connector.keys("orders")).keys == ["1"]
    assert [record.key for record in (await connector.pull_open("orders")).records] == ["1"]
    await connector.close()
    whole = built(contract_dsn, table, modified=None)
    assert whole.inbound[0].cursor == "listing"
    assert len(await walked(whole, None, datetime.now(UTC))) == 2
    await whole.close()
