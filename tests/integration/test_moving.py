"""What of a customer moves between two databases, and what a step that is interrupted leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar
from zipfile import ZipFile

import orjson
import pytest

from benchmarks.servers import wait_until
from gateway.cells import archive, survey
from gateway.cells.archive import Header
from gateway.cells.mover import Mover
from gateway.cells.seals import Seals
from gateway.cells.survey import CellSettings, CellsFile
from gateway.credentials.vault import Vault
from gateway.ingest.batch import MessageBatch, Tally
from gateway.ingest.decode import Decoder
from gateway.ingest.host import ReadMessages
from gateway.ingest.pipeline import Pipeline
from gateway.model.errors import ConfigError, CustomersLeft, RequestRefused
from gateway.model.moving import MARK, MoveStage, code
from gateway.model.quota import QuotaKind
from gateway.payloads.sources import compile_sources
from gateway.payloads.sparkplug.node import Node
from gateway.settings import TelemetrySettings
from gateway.store import arriving, moving
from gateway.store.connections import register_customers
from gateway.store.dead_messages import DeadMessage
from gateway.store.moving_tables import LEFT, SEALED, TABLES, OwnedBy
from gateway.store.pool import Database
from gateway.store.sparkplug import Known
from gateway.store.telemetry import TelemetryStore
from tests.fixtures.connection_rig import KEY, settings

WHOSE = ("customer_id", "connection_id", "endpoint_id")


async def schema(database: Database) -> dict[str, set[str]]:
    async with database.connection() as connection:
        rows = await connection.fetch(
            """select c.relname as name, array_agg(a.attname::text) as columns
            from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
              and c.relname not like 'departed\\_%'
            group by c.relname"""
        )
    return {row["name"]: set(row["columns"]) for row in rows}


async def test_every_table_that_says_whose_a_row_is_moves_or_says_why_not(database: Database) -> None:
    found = await schema(database)
    owned = {name for name, columns in found.items() if columns & {*WHOSE}}
    moved = [table.name for table in TABLES]
    assert len(moved) == len(set(moved)) and not {*moved} & {*LEFT}
    assert owned == {*moved} | {*LEFT}, "a table is neither moved nor left with a reason, or is no more"
    for table in TABLES:
        column = {OwnedBy.CONNECTION: "connection_id", OwnedBy.ENDPOINT: "endpoint_id"}.get(
            table.key, "customer_id"
        )
        assert column in found[table.name], table.name
        assert {*table.resets} <= found[table.name], f"{table.name} resets a column that it has not"


async def test_every_sealed_column_is_sealed_anew(database: Database) -> None:
    """Bytes are hashes, digests, or sealed."""
    plain = {"hash", "digest", "payload", "sealed_at", "link_hash", "browser_hash", "state_hash"}
    async with database.connection() as connection:
        rows = await connection.fetch(
            "select table_name::text, column_name::text from information_schema.columns"
            " where table_schema = 'public' and data_type = 'bytea' and table_name not like 'departed%'"
        )
    moved = {table.name for table in TABLES}
    sealed = {
        (row["table_name"], row["column_name"])
        for row in rows
        if row["table_name"] in moved and row["column_name"] not in plain
    }
    assert sealed == {(table, column) for table, columns in SEALED.items() for column in columns}


async def test_rows_that_others_refer_to_are_put_in_force_first(database: Database) -> None:
    async with database.connection() as connection:
        rows = await connection.fetch(
            "select conrelid::regclass::text as child, confrelid::regclass::text as parent from pg_constraint where contype = 'f'"
        )
    order = {table.name: place for place, table in enumerate(TABLES)}
    wrong = [
        (row["child"], row["parent"])
        for row in rows
        if row["child"] in order and row["parent"] in order and order[row["child"]] <= order[row["parent"]]
    ]
    assert not wrong


async def store(database: Database, *customers: str) -> None:
    at = 1_790_000_000_000_000
    samples = [((customer, "pump", at), {"value": 1.0}, at + 5) for customer in customers]
    await TelemetryStore(database, register_customers=False).write(samples, ())


async def test_nobody_writes_for_a_customer_that_left_and_everybody_else_does(database: Database) -> None:
    await register_customers(database, ["acme", "globex"])
    await store(database, "acme")
    async with database.transaction() as connection:
        await moving.take_out_of_force(connection, "acme", "m1", None, is_whole=True)
    with pytest.raises(CustomersLeft) as refused:
        await store(database, "acme", "globex")
    assert refused.value.customers == {"acme"}
    await store(database, "globex")
    async with database.connection() as connection:
        rows = await connection.fetch("select customer_id, count(*) from telemetry group by 1 order by 1")
        assert [tuple(row) for row in rows] == [("acme", 1), ("globex", 1)]
        assert await connection.fetchval("select count(*) from device where customer_id = 'acme'") == 0
    with pytest.raises(CustomersLeft, match="has moved"):
        async with database.transaction() as connection:
            await connection.execute(
                "insert into connection (connection_id, customer_id, system, hosting, tier, declared_digest)"
                " values ('c', 'acme', 'postgres', 'cloud', 1, '')"
            )
    await moving.forget(database, "acme")
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from telemetry where customer_id = 'acme'") == 0
    (left,) = await moving.listed(database)
    assert left.stage is MoveStage.GONE
    with pytest.raises(CustomersLeft):
        await store(database, "acme")


async def test_marks_are_noted_once_and_only_of_who_moves(database: Database) -> None:
    await register_customers(database, ["acme", "globex"])
    async with database.transaction() as connection:
        await moving.expect(connection, "acme", "m1", 1_000)
    first, second = f"acme/{MARK}m1e", f"acme/{MARK}m1x"
    await moving.note_marks(database, [("acme", first), ("globex", first)])
    await store(database, "acme")
    await moving.note_marks(database, [("acme", first), ("acme", second)])
    assert await moving.marks(database, "acme") == {first: 1_000, second: 1_002}
    assert await moving.marks(database, "globex") == {}


async def test_marks_of_nobodys_move_take_no_room(database: Database) -> None:
    """Anybody may publish them, and moves that were cancelled have left some."""
    await register_customers(database, ["acme"])
    await expect(database, "acme", "m1")
    await moving.note_marks(database, [("acme", f"acme/{MARK}other/{number}") for number in range(150)])
    assert await moving.marks(database, "acme") == {}
    await moving.note_marks(database, [("acme", f"acme/{MARK}m1e/{number}") for number in range(150)])
    await moving.note_marks(database, [("acme", f"acme/{MARK}m1x")])  # its move has enough
    assert f"acme/{MARK}m1x" not in await moving.marks(database, "acme")
    async with database.transaction() as connection:
        await moving.begin_leaving(connection, "acme", "m2", is_whole=False)
    await moving.note_marks(database, [("acme", f"acme/{MARK}m2x")])
    assert f"acme/{MARK}m2x" in await moving.marks(database, "acme")


async def test_a_mark_of_the_move_to_which_a_cancelled_export_returns_is_noted(database: Database) -> None:
    await register_customers(database, ["acme"])
    await expect(database, "acme", "m1")
    async with database.transaction() as connection:
        await moving.begin_leaving(connection, "acme", "m2", is_whole=False)
    await moving.note_marks(database, [("acme", f"acme/{MARK}m1x")])
    async with database.transaction() as connection:
        await moving.stay(connection, "acme")
    assert [*await moving.marks(database, "acme")] == [f"acme/{MARK}m1x"]


@pytest.mark.parametrize("arrives", ["earlier", "later"])
async def test_of_two_states_of_a_sample_the_one_of_the_later_position_counts(
    database: Database, arrives: str
) -> None:
    """What came here while the customer was expected, and what a customer that comes back was corrected to."""
    await register_customers(database, ["acme"])
    await expect(database, "acme")
    await store(database, "acme")
    revision = 1 if arrives == "earlier" else 1_000_000
    async with database.connection() as connection:
        await connection.execute(
            'update telemetry set metrics = \'{"value": 1, "own": true}\', revision = 500'
        )
    async with database.pinned() as session:
        await session.execute(
            "create temporary table incoming_telemetry as select * from telemetry with no data"
        )
        await session.execute("alter table incoming_telemetry add column place bigserial")
        await session.execute(
            'insert into incoming_telemetry select customer_id, device_id, ts, \'{"value": 2, "theirs": true}\', received_at, 0, $1 from telemetry',
            revision,
        )
        for _ in range(2):
            assert await arriving.merge_telemetry(database, session, "acme", MOVE, None) == 1
            row = await session.fetchrow("select metrics, revision from telemetry")
            assert row is not None
            assert row["metrics"] == {"value": 1 if arrives == "earlier" else 2, "own": True, "theirs": True}
            assert row["revision"] == max(500, revision)


async def test_of_messages_without_a_time_each_side_of_the_mark_counts_once(database: Database) -> None:
    """Up to the mark the source's, behind it the destination's; what a device timed is kept wherever it is."""
    await register_customers(database, ["acme"])
    await expect(database, "acme")
    at = 1_790_000_000_000_000
    await TelemetryStore(database, register_customers=False).write(
        [
            (("acme", device, at), {"v": 1}, at + late)
            for device, late in (("old", 0), ("early", 0), ("timed", 900_000), ("late", 0))
        ],
        (),
    )
    async with database.pinned() as session:
        for device, revision in (("old", 5), ("early", 1_010), ("timed", 1_010), ("late", 1_020)):
            await session.execute("update telemetry set revision = $2 where device_id = $1", device, revision)
        await session.execute(
            "create temporary table incoming_telemetry as select * from telemetry with no data"
        )
        await session.execute("alter table incoming_telemetry add column place bigserial")
        for device, revision, late in (("before", 90, 0), ("behind", 101, 0), ("timed-behind", 101, 700_000)):
            await session.execute(
                "insert into incoming_telemetry select customer_id, $1, ts, metrics, ts + $2 * interval '1 microsecond', 0, $3 from telemetry where device_id = 'late'",
                device,
                late,
                revision,
            )
        await arriving.merge_telemetry(
            database, session, "acme", MOVE, arriving.Cut(source=100, begun=1_000, here=1_010)
        )
        rows = await session.fetch("select device_id from telemetry order by 1")
    assert [row["device_id"] for row in rows] == ["before", "late", "old", "timed", "timed-behind"]


MOVE = "1a2b3c4d"


class Marked(Mover):
    """Its marks come back without a broker. `meanwhile`: what somebody else does until then."""

    def __init__(
        self, database: Database, *, meanwhile: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        super().__init__(settings(), database, wait_seconds=1.0, say=lambda text: None)
        self._meanwhile = meanwhile

    async def _seen(self, customer: str, wanted: list[str], *, again: bool) -> dict[str, int]:
        if self._meanwhile is not None:
            await self._meanwhile()
        return dict.fromkeys(wanted, 1)


async def connect(database: Database, name: str, customer: str) -> None:
    """A connection that has delivered something."""
    async with database.transaction() as connection:
        await connection.execute(
            "insert into connection (connection_id, customer_id, system, hosting, tier, declared_digest)"
            " values ($1, $2, 'postgres', 'cloud', 1, '')",
            name,
            customer,
        )
        await connection.execute("select ensure_partition('delivery', '2026-09-21')")
        await connection.execute(
            "insert into delivery (connection_id, meter, window_start, value)"
            " values ($1, 'm', '2026-09-21 10:00Z', to_jsonb($2::text)) on conflict do nothing",
            name,
            customer,
        )


async def leave(database: Database, customer: str, move: str = MOVE, *, is_whole: bool = True) -> None:
    async with database.transaction() as connection:
        await moving.take_out_of_force(connection, customer, move, None, is_whole=is_whole)


async def pack(database: Database, customer: str, path: Path, *, is_whole: bool = True) -> None:
    """The archive of a customer that left."""
    header = Header(
        format=archive.FORMAT,
        customer=customer,
        move=MOVE,
        instance="elsewhere",
        topic_root="elsewhere",
        brokers=["mqtt://elsewhere"],
        position=1,
        cut=None,
        cut_topic="",
        is_whole=is_whole,
        columns={},
    )
    async with database.pinned() as session:
        await archive.write(path, session, header, Seals(Vault([KEY])))


async def expect(database: Database, customer: str, move: str = MOVE) -> None:
    async with database.transaction() as connection:
        await moving.expect(connection, customer, move, 1_000_000)


async def deliveries(database: Database) -> dict[str, str]:
    async with database.connection() as connection:
        return {
            row["connection_id"]: row["value"]
            for row in await connection.fetch("select connection_id, value from delivery order by 1")
        }


async def waits(database: Database, task: asyncio.Task[None]) -> None:
    """Returns when it waits for a lock."""

    async def does() -> bool:
        assert not task.done()
        async with database.connection() as connection:
            return bool(
                await connection.fetchval(
                    "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')"
                )
            )

    await wait_until(does, what="it waits for a lock")


async def stage_of(database: Database, customer: str) -> MoveStage:
    return {one.customer: one.stage for one in await moving.listed(database)}[customer]


async def comes_back(database: Database, path: Path) -> None:
    """`acme` left with the connection `x` and is expected again."""
    await register_customers(database, ["acme"])
    await connect(database, "x", "acme")
    await leave(database, "acme")
    await pack(database, "acme", path)
    await moving.forget(database, "acme")
    await expect(database, "acme")


async def test_an_import_touches_nothing_of_a_connection_that_another_customer_has(
    database: Database, tmp_path: Path
) -> None:
    await register_customers(database, ["globex"])
    await comes_back(database, tmp_path / "acme.zip")
    await connect(database, "x", "globex")
    with pytest.raises(RequestRefused, match="connection 'x' here already"):
        await Marked(database).import_(tmp_path / "acme.zip", KEY)
    assert await deliveries(database) == {"x": "globex"}


async def test_a_name_that_is_taken_after_it_was_looked_at_undoes_the_import(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register_customers(database, ["globex"])
    await comes_back(database, tmp_path / "acme.zip")
    await connect(database, "x", "globex")

    async def looked(connection: object, customer: str) -> None:
        pass

    monkeypatch.setattr(arriving, "check_free", looked)
    with pytest.raises(RequestRefused, match="taken meanwhile"):
        await Marked(database).import_(tmp_path / "acme.zip", KEY)
    assert await deliveries(database) == {"x": "globex"}


async def test_names_of_what_is_kept_of_a_customer_are_not_given_again(
    database: Database, tmp_path: Path
) -> None:
    """Its deliveries are kept by the name of the connection alone."""
    await register_customers(database, ["acme", "globex"])
    await connect(database, "x", "globex")
    await leave(database, "globex")
    await pack(database, "globex", tmp_path / "globex.zip")
    with pytest.raises(CustomersLeft, match="connection x is kept of a customer that has moved"):
        await connect(database, "x", "acme")
    await moving.forget(database, "globex")
    await connect(database, "x", "acme")
    await leave(database, "acme")
    await expect(database, "globex")
    with pytest.raises(RequestRefused, match="connection 'x' here already"):
        await Marked(database).import_(tmp_path / "globex.zip", KEY)
    assert await deliveries(database) == {"x": "acme"}
    await expect(database, "acme")
    await pack(database, "acme", tmp_path / "acme.zip")
    await Marked(database).import_(tmp_path / "acme.zip", KEY)
    assert await deliveries(database) == {"x": "acme"}


async def test_a_name_is_not_taken_while_its_customer_leaves(database: Database) -> None:
    await register_customers(database, ["acme", "globex"])
    await connect(database, "x", "acme")
    async with database.transaction() as connection:
        await moving.take_out_of_force(connection, "acme", MOVE, None, is_whole=True)
        taking = asyncio.create_task(connect(database, "x", "globex"))
        await waits(database, taking)
    with pytest.raises(CustomersLeft, match="is kept of a customer"):
        await taking


async def test_an_export_that_is_cancelled_meanwhile_takes_nothing_away(
    database: Database, tmp_path: Path
) -> None:
    await register_customers(database, ["acme"])
    await connect(database, "x", "acme")

    async def cancel() -> None:
        await Marked(database).cancel("acme", None)

    with pytest.raises(RequestRefused, match="cancelled meanwhile"):
        await Marked(database, meanwhile=cancel).export(
            "acme", tmp_path / "acme.zip", code(MoveStage.EXPECTED, "acme", MOVE), KEY
        )
    assert await stage_of(database, "acme") is MoveStage.ARRIVED
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from connection") == 1


@pytest.mark.parametrize("becomes", [MoveStage.GONE, MoveStage.EXPECTED])
async def test_an_import_whose_expectation_is_cancelled_meanwhile_puts_nothing_in_force(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, becomes: MoveStage
) -> None:
    await comes_back(database, tmp_path / "acme.zip")
    mover = Marked(database)

    async def unheard(customer: str) -> float:
        async with database.transaction() as connection:
            await moving.set_stage(connection, customer, becomes, "another")
        return 0.0

    monkeypatch.setattr(mover, "_unheard", unheard)
    with pytest.raises(RequestRefused, match="cancelled meanwhile"):
        await mover.import_(tmp_path / "acme.zip", KEY)
    assert await stage_of(database, "acme") is becomes
    assert await deliveries(database) == {}


async def test_an_import_that_is_cancelled_while_it_merges_leaves_no_samples(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register_customers(database, ["acme"])
    await store(database, "acme")
    await comes_back(database, tmp_path / "acme.zip")
    merge = arriving.merge_telemetry

    async def cancelled_first(*arguments: Any) -> int:
        await moving.cancel_expected(database, "acme", MOVE, discard=True)
        return await merge(*arguments)

    monkeypatch.setattr(arriving, "merge_telemetry", cancelled_first)
    with pytest.raises(RequestRefused, match="cancelled meanwhile"):
        await Marked(database).import_(tmp_path / "acme.zip", KEY)
    assert await stage_of(database, "acme") is MoveStage.GONE
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from telemetry") == 0


async def test_what_is_imported_meanwhile_is_not_cancelled(database: Database) -> None:
    await register_customers(database, ["acme"])
    await expect(database, "acme")
    async with database.transaction() as connection:
        await moving.arrive(connection, "acme", MOVE)
    await connect(database, "x", "acme")
    with pytest.raises(RequestRefused, match="meanwhile"):
        await moving.cancel_expected(database, "acme", MOVE, discard=True)
    assert await deliveries(database) == {"x": "acme"}
    assert await stage_of(database, "acme") is MoveStage.ARRIVED


async def test_a_connection_is_not_made_while_its_customer_leaves(database: Database) -> None:
    await register_customers(database, ["acme"])
    async with database.transaction() as connection:
        await moving.set_stage(connection, "acme", MoveStage.LEAVING, MOVE)
    async with database.transaction() as connection:
        await moving.take_out_of_force(connection, "acme", MOVE, None, is_whole=True)
        making = asyncio.create_task(connect(database, "x", "acme"))
        await waits(database, making)
    with pytest.raises(CustomersLeft, match="acme has moved"):
        await making


async def test_a_customer_leaves_with_the_connection_that_is_being_made(database: Database) -> None:
    await register_customers(database, ["acme"])
    async with database.transaction() as connection:
        await moving.set_stage(connection, "acme", MoveStage.LEAVING, MOVE)
    async with database.transaction() as connection:
        await connection.execute(
            "insert into connection (connection_id, customer_id, system, hosting, tier, declared_digest)"
            " values ('x', 'acme', 'postgres', 'cloud', 1, '')"
        )
        taking = asyncio.create_task(leave(database, "acme"))
        await waits(database, taking)
    await taking
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from connection") == 0
        assert await connection.fetchval("select count(*) from departed_connection") == 1


async def test_an_expectation_is_cancelled_when_the_source_says_so_and_the_loss_is_agreed_to(
    database: Database,
) -> None:
    """That no mark of the source came here shows nothing, where each cell has a broker of its own."""
    await register_customers(database, ["acme", "globex"])
    mover = Marked(database)
    await expect(database, "acme")
    with pytest.raises(RequestRefused, match="cancel there first"):
        await mover.cancel("acme", None)
    with pytest.raises(RequestRefused, match="cancel there first"):
        await mover.cancel("acme", None, discard=True)
    with pytest.raises(RequestRefused):  # it is nowhere here
        await mover.cancel("initech", None, expected=code(MoveStage.EXPECTED, "initech", MOVE))
    cancelled = await mover.cancel("globex", None, expected=code(MoveStage.EXPECTED, "globex", MOVE))
    assert cancelled == code(MoveStage.LEAVING, "globex", MOVE)
    cancelled = code(MoveStage.LEAVING, "acme", MOVE)
    await store(database, "acme")
    with pytest.raises(RequestRefused, match="--discard-samples"):
        await mover.cancel("acme", cancelled)
    assert await stage_of(database, "acme") is MoveStage.EXPECTED
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from telemetry") == 1
        assert not await connection.fetchval("select is_frozen from customer_log where customer_id = 'acme'")
    await mover.cancel("acme", cancelled, discard=True)
    assert await stage_of(database, "acme") is MoveStage.GONE
    await expect(database, "acme")
    await mover.cancel("acme", cancelled)  # nothing came
    assert await stage_of(database, "acme") is MoveStage.GONE


@pytest.mark.parametrize("stage", [MoveStage.LEFT, MoveStage.GONE, MoveStage.EXPECTED])
async def test_a_gateway_that_has_not_the_customer_does_not_say_that_it_keeps_it(
    database: Database, stage: MoveStage
) -> None:
    await register_customers(database, ["acme"])
    async with database.transaction() as connection:
        await moving.set_stage(connection, "acme", stage, MOVE)
    with pytest.raises(RequestRefused):
        await Marked(database).cancel("acme", None, expected=code(MoveStage.EXPECTED, "acme", MOVE))
    assert await stage_of(database, "acme") is stage


async def test_a_customer_without_connections_that_comes_back_has_what_was_kept(
    database: Database, tmp_path: Path
) -> None:
    await register_customers(database, ["acme"])
    await store(database, "acme")
    async with database.connection() as connection:
        await connection.execute("update device set title = 'of old'")
    await leave(database, "acme")
    await expect(database, "acme")
    async with database.connection() as connection:
        assert await moving.has_departed(connection, "acme")
    # elsewhere it was only expected
    await register_customers(database, ["globex"])
    await leave(database, "globex", is_whole=False)
    await pack(database, "globex", tmp_path / "globex.zip", is_whole=False)
    header = archive.header_of(tmp_path / "globex.zip")
    async with database.pinned() as session:
        await archive.write(
            tmp_path / "acme.zip", session, replace(header, customer="nobody"), Seals(Vault([KEY]))
        )
    rename(tmp_path / "acme.zip", "acme")
    await Marked(database).import_(tmp_path / "acme.zip", KEY)
    async with database.connection() as connection:
        assert await connection.fetchval("select title from device where customer_id = 'acme'") == "of old"
        assert not await moving.has_departed(connection, "acme")
        # what came while it was expected is not what was in force
        await moving.set_stage(connection, "acme", MoveStage.LEAVING, MOVE, is_whole=False)
    await leave(database, "acme", is_whole=False)
    await expect(database, "acme")
    async with database.connection() as connection:
        assert not await moving.has_departed(connection, "acme")


def rename(path: Path, customer: str) -> None:
    """The same archive, of another customer."""
    with ZipFile(path) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    files[archive.HEADER] = orjson.dumps({**orjson.loads(files[archive.HEADER]), "customer": customer})
    with ZipFile(path, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)


async def test_nothing_of_a_batch_is_stored_of_a_customer_that_left(database: Database) -> None:
    """Neither samples nor dead letters, states of Sparkplug and excesses; everybody else's is."""
    await register_customers(database, ["acme", "globex"])
    await store(database, "acme", "globex")
    await leave(database, "acme")
    made = TelemetrySettings()
    pipeline = Pipeline(
        made,
        Decoder(made, compile_sources(made.sources), ("globex",)),
        TelemetryStore(database, register_customers=False),
    )
    batch, read = MessageBatch(Unheard()), ReadMessages()
    at = 1_790_000_060_000_000
    for customer in ("acme", "globex"):
        batch.samples[(customer, "pump", at)] = ((customer, "pump", at), {"value": 2.0}, at)
        batch.dead.append(
            DeadMessage(topic=customer, payload=b"{", reason="invalid_json", detail="", customer=customer)
        )
        batch.excess[(customer, QuotaKind.MESSAGES)] = Tally(1.0)
    nodes = (Known(key=(customer, "n"), node=Node(), ids={}) for customer in ("acme", "globex"))
    read.known = tuple(nodes)

    async def reads(batch: MessageBatch) -> ReadMessages:
        return read

    pipeline._committer._read_sparkplug = reads  # type: ignore[method-assign]
    await pipeline._committer.commit(batch)
    assert [known.key[0] for known in read.known] == ["globex"]
    without_samples = MessageBatch(Unheard())
    for customer in ("acme", "globex"):
        without_samples.dead.append(
            DeadMessage(topic=customer, payload=b"[", reason="invalid_json", detail="", customer=customer)
        )
        without_samples.excess[(customer, QuotaKind.DEVICES)] = Tally(1.0)
    await pipeline._committer.commit(without_samples)
    async with database.connection() as connection:
        for table in ("dead_letter", "quota_excess", "sparkplug_node"):
            rows = await connection.fetch(f"select distinct customer_id from {table}")
            assert [row["customer_id"] for row in rows] == ["globex"], table
        assert await connection.fetchval("select count(*) from dead_letter") == 2
        for table in ("dead_letter", "quota_excess"):
            await connection.execute(f"update {table} set customer_id = 'acme'")
    await moving.forget(database, "acme")
    async with database.connection() as connection:
        for table in ("dead_letter", "quota_excess"):
            assert await connection.fetchval(f"select count(*) from {table}") == 0, table


class Unheard:
    """A connection to the broker that is told nothing."""

    def acknowledge(self, packets: bytes) -> bool:
        return True

    def pause(self) -> None: ...

    def resume(self) -> None: ...


async def test_a_cancel_that_was_killed_goes_on_when_it_is_given_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register_customers(database, ["acme"])
    await expect(database, "acme")
    await store(database, "acme")
    mover, cancelled = Marked(database), code(MoveStage.LEAVING, "acme", MOVE)

    async def killed(database: Database, customer: str) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched, pytest.raises(asyncio.CancelledError):
        patched.setattr(moving, "forget", killed)
        await mover.cancel("acme", cancelled, discard=True)
    assert await stage_of(database, "acme") is MoveStage.LEFT
    with pytest.raises(RequestRefused, match="`fieldgate customer cancel acme` goes on"):
        await mover.expect("acme")
    assert await mover.cancel("acme", cancelled) == code(MoveStage.EXPECTED, "acme", MOVE)
    assert await stage_of(database, "acme") is MoveStage.GONE
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from telemetry") == 0


async def row_of(database: Database, customer: str) -> moving.Move:
    (found,) = [one for one in await moving.listed(database) if one.customer == customer]
    return found


@pytest.mark.parametrize("arrives", [False, True], ids=["expected", "arrived"])
async def test_a_cancelled_export_restores_where_the_customer_stood(
    database: Database, tmp_path: Path, arrives: bool
) -> None:
    """What it was expected by is imported still, and is divided where the expectation began."""
    await register_customers(database, ["acme"])
    await expect(database, "acme", "first")
    if arrives:
        async with database.transaction() as connection:
            await moving.arrive(connection, "acme", "first")
    before = await row_of(database, "acme")
    await store(database, "acme")

    class Killed(Exception):
        pass

    async def killed() -> None:
        raise Killed

    for move in (MOVE, "5e6f7a8b"):
        with pytest.raises(Killed):
            await Marked(database, meanwhile=killed).export(
                "acme", tmp_path / "acme.zip", code(MoveStage.EXPECTED, "acme", move), KEY
            )
    assert await stage_of(database, "acme") is MoveStage.LEAVING
    assert await Marked(database).cancel("acme", None) == code(MoveStage.LEAVING, "acme", "5e6f7a8b")
    assert await row_of(database, "acme") == before


async def test_a_damaged_archive_is_refused_as_one(database: Database, tmp_path: Path) -> None:
    await register_customers(database, ["acme"])
    await store(database, "acme")
    await leave(database, "acme")
    path, key = tmp_path / "acme.zip", Seals(Vault([KEY]))
    await pack(database, "acme", path)
    whole = path.read_bytes()
    header = archive.header_of(path)
    with ZipFile(path) as packed:
        told = orjson.loads(packed.read(archive.HEADER))
    for damage in ({"move": 5}, {"position": "x"}, {"columns": None}, {"cut": {}}):
        damaged = {name: value for name, value in {**told, **damage}.items() if value is not None}
        with ZipFile(path, "w") as packed:
            packed.writestr(archive.HEADER, orjson.dumps(damaged))
        with pytest.raises(ConfigError, match="is no archive of a customer"):
            archive.header_of(path)
    # a byte of a table, none of that table's columns, and a table that is not there
    place = whole.index(b"telemetry") + len("telemetry") + 4
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
    async with database.pinned() as session:
        with pytest.raises(ConfigError, match="is damaged"):
            async with archive.read(path, session, header, key):
                raise AssertionError
        path.write_bytes(whole)
        with pytest.raises(ConfigError, match="is damaged"):
            async with archive.read(path, session, replace(header, columns={}), key):
                raise AssertionError
        with ZipFile(path, "w") as packed:
            packed.writestr(archive.HEADER, orjson.dumps(told))
        with pytest.raises(ConfigError, match="is damaged"):
            async with archive.read(path, session, header, key):
                raise AssertionError
    # a sealed value of a row that is not there, of a table that has none, and by another key
    for value in (
        {"table": "token", "column": "sealed", "key": ["nobody", 1], "sealed": ""},
        {"table": "device", "column": "title", "key": [], "sealed": ""},
        {"table": "token", "column": "sealed", "key": ["nobody"], "sealed": ""},
    ):
        with ZipFile(BytesIO(whole)) as packed, ZipFile(path, "w") as written:
            for name in packed.namelist():
                content = orjson.dumps([value]) if name == archive.SEALS else packed.read(name)
                written.writestr(name, content)
        async with database.pinned() as session:
            with pytest.raises(ConfigError, match="is damaged"):
                async with archive.read(path, session, header, key):
                    raise AssertionError
    # what is raised by whoever uses it is not its fault
    path.write_bytes(whole)
    async with database.pinned() as session:
        with pytest.raises(KeyError):
            async with archive.read(path, session, header, key):
                raise KeyError


class Answering(BaseHTTPRequestHandler):
    """`redirected`: the requests that came by a redirection."""

    redirected: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if self.path.startswith("/elsewhere"):
            self.redirected.append(self.headers.get("authorization", ""))
        self.send_response(302)
        self.send_header("location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Rambling(Answering):
    def do_GET(self) -> None:
        self.wfile.write(b"SSH-2.0-none\r\n")
        self.close_connection = True


@pytest.mark.parametrize("answers", [Answering, Rambling])
async def test_a_cell_that_answers_as_none_does_is_told_and_gets_no_token_elsewhere(
    tmp_path: Path, answers: type[BaseHTTPRequestHandler]
) -> None:
    (tmp_path / "token").write_text("secret")
    server = HTTPServer(("127.0.0.1", 0), answers)
    serving = asyncio.create_task(asyncio.to_thread(server.serve_forever, 0.05))
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        cell = CellSettings(name="north", url=url, token_file="token")
        (answer,) = await survey.ask_all(CellsFile(cells=(cell,)), tmp_path)
        assert answer.fault is not None
        assert Answering.redirected == []
        assert answers is Rambling or "answered with 302" in answer.fault
    finally:
        server.shutdown()
        await serving
        server.server_close()
