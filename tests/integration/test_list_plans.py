"""A page of a list costs what it holds, whoever else is in the table: counted in blocks, not in time.

Statistics are of yesterday. Who came since is not in them, and what they say of the others must lead no
statement through those.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.store.pool import Database
from gateway.store.queries import filtered

MANY = 6_000
PAGE_BLOCKS = 60
"""For ten rows at the most; the others take hundreds."""

OTHERS = f"""
insert into customer (customer_id) values ('acme'), ('globex');
insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest)
values ('acme-1', 'acme', 'postgres', 'cloud', 1, 'active', ''), ('acme-2', 'acme', 'postgres', 'cloud', 1, 'active', '');
insert into record_log (customer_id, position) values ('acme', {MANY + 10});
insert into inbound_count (customer_id, connection_id, stream) values ('acme', 'acme-1', 'work_orders');
insert into record (customer_id, connection_id, stream, key, revision, body, hash, modified_at, changed_at)
select 'acme', 'acme-1', 'work_orders', n, n, jsonb_build_object('text', repeat('x', 200)), '', now(), array[now()]
from generate_series(1, {MANY}) n;
insert into dead_letter (kind, digest, customer_id, topic, reason, detail, payload)
select 'message', decode(md5(n::text), 'hex'), 'acme', 'acme/devices/a', 'invalid_json', repeat('x', 200), ''
from generate_series(1, {MANY}) n;
insert into event (type, customer_id, lane, data, revision)
select 'sync.completed', 'acme', '/acme', jsonb_build_object('text', repeat('x', 200)), n from generate_series(1, {MANY}) n;
insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest)
values ('globex-1', 'globex', 'postgres', 'cloud', 1, 'active', '');
insert into credit_transfer (kind, from_account, to_account, amount, connection_id, customer_id, capacity)
select 'hold', 'available', 'held', 1, 'acme-1', 'acme', 10 from generate_series(1, {MANY}) n;
create table delivery_listed partition of delivery for values from ('2001-01-01') to ('2001-01-02');
insert into delivery (connection_id, meter, window_start, value)
select 'acme-1', 'meter-' || lpad((n % 600)::text, 3, '0'), timestamptz '2001-01-01' + n * interval '1 s', '1' from generate_series(1, {MANY}) n;
insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest, settings)
select 'other-' || n, 'acme', 'postgres', 'cloud', 1, 'active', '', jsonb_build_object('text', repeat('x', 400)) from generate_series(1, 2000) n;
insert into webhook_endpoint (endpoint_id, url, types, secret) values ('hook', 'https://x.example', '{{}}', '');
insert into webhook_delivery (position, endpoint_id, lane, state) select position, 'hook', lane, 'delivered' from event;
insert into alert (alert_id, customer_id, connection_id, rule_id, device_id, kind, severity, title, text, value, begun_at, since,
    opened_at, well_at, state)
select 'a-' || n, 'acme', 'acme-1', 'hot', 'd-' || n, 'work_order', 'high', repeat('x', 100), '', '1', now(), now(), now(), now(),
    'cleared' from generate_series(1, {MANY}) n;
"""
SINCE = f"""
insert into inbound_count (customer_id, connection_id, stream) values
    ('acme', 'acme-1', 'meters'), ('acme', 'acme-2', 'work_orders');
insert into record (customer_id, connection_id, stream, key, revision, body, hash, modified_at, changed_at)
select 'acme', 'acme-' || (1 + n % 2), case n % 2 when 0 then 'meters' else 'work_orders' end, 'new-' || n, {MANY} + n, '{{}}', '',
    now() + interval '1 minute', array[now()] from generate_series(1, 10) n;
insert into dead_letter (kind, digest, customer_id, topic, reason, detail, payload)
select 'message', decode(md5('new' || n), 'hex'), 'globex', 'globex/devices/a', 'invalid_json', '', '' from generate_series(1, 10) n;
insert into dead_letter (kind, digest, customer_id, topic, reason, detail, payload)
select 'message', decode(md5('more' || n), 'hex'), 'acme', 'acme/devices/a', 'invalid_json', repeat('x', 200), ''
from generate_series(1, 600) n;
insert into event (type, customer_id, lane, data, revision)
select 'sync.completed', 'globex', '/globex', '{{}}', {MANY} + n from generate_series(1, 10) n;
insert into credit_transfer (kind, from_account, to_account, amount, connection_id, customer_id, capacity)
select 'hold', 'available', 'held', 1, 'globex-1', 'globex', 10 from generate_series(1, 10) n;
insert into credit_transfer (kind, from_account, to_account, amount, connection_id, customer_id, capacity)
select 'hold', 'available', 'held', 1, 'acme-1', 'acme', 10 from generate_series(1, 600) n;
insert into alert (alert_id, customer_id, connection_id, rule_id, device_id, kind, severity, title, text, value, begun_at, since,
    opened_at, well_at, state, created_at)
select 'g-' || n, 'globex', 'globex-1', 'hot', 'd-' || n, 'work_order', 'high', '', '', '1', now(), now(), now(), now(), 'cleared',
    now() - interval '1 day' from generate_series(1, 10) n;
"""


async def looked_at(database: Database, name: str, *arguments: object) -> tuple[int, int]:
    """Rows that came, and blocks that the server looked at for them, by the plan that our sessions use."""
    asked, *_ = filtered(name, *arguments)
    async with database.connection() as connection:
        event = await connection.fetchval("select event_id from event where customer_id = 'acme' limit 1")
        written = ", ".join(
            "null" if each is None
            else f"array[{each[0]!r}]" if isinstance(each, list)
            else repr(str(event) if each == "EVENT" else each)
            for each in arguments
        )  # fmt: skip
        await connection.execute(f"prepare asked as {asked}")
        try:
            found = await connection.fetchval(
                f"explain (analyze, buffers, timing off, format json) execute asked({written})"
            )
        finally:
            await connection.execute("deallocate asked")
    (explained,) = json.loads(found) if isinstance(found, str) else found
    plan: Mapping[str, Any] = explained["Plan"]
    return int(plan["Actual Rows"]), plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


@pytest.mark.parametrize(
    ("name", "arguments", "rows"),
    [
        ("record_page_of", ("acme", 0, None, 11, 1 << 23, "acme-1", "meters"), 5),
        ("record_page_of", ("acme", 0, None, 11, 1 << 23, "acme-2", None), 5),
        ("record_page_of", ("acme", 0, None, 11, 1 << 23, None, "meters"), 5),
        ("record_page_of", ("acme", 0, "2100-01-01", 11, 1 << 23, "acme-1", "meters"), 0),
        ("record_page", ("acme", MANY, None, 11, 1 << 23), 10),
        ("message_list_customer", (None, None, None, 2**53, 11, 512, "globex"), 10),
        ("message_ids_customer", (None, None, None, 0, 2**53, 11, "globex"), 10),
        ("outbox_read_customer", ("globex", 0, 11), 10),
        ("alert_list_customer", (None, None, "2100-01-01", "", 11, "globex"), 10),
        ("alert_list_connection", (None, None, "2100-01-01", "", 11, "globex-1", None), 10),
        ("alert_list_connection", (None, None, "2100-01-01", "", 11, "globex-1", "globex"), 10),
        ("credit_transfers_customer", (2**53, 11, "globex"), 10),
        ("event_latest_customer", (None, None, "2000-01-01", 11, "globex"), 10),
        ("event_latest_customer", (None, "globex-1", "2000-01-01", 11, None), 0),
        ("view_readings", ("acme-1", "meter-599", "", "-infinity", 11), 10),
        ("view_connections", ("other-1999", None, None, None, "", 11, True), 1),
        ("view_connections", ("globex-1", "globex", None, None, "", 11, True), 1),
        ("connection_read", (["other-1999"],), 1),
        ("connection_configurations", (["other-1999"],), 1),
        ("webhook_deliveries", ("hook", "EVENT", 11), 1),
        ("message_fitting", ("globex", None, None, None, 2**53), 1),
    ],
)
async def test_who_came_since_the_statistics_is_found_by_an_index_of_his_own(
    database: Database, name: str, arguments: tuple[object, ...], rows: int
) -> None:
    async with database.connection() as connection:
        await connection.execute(OTHERS)
        await connection.execute(
            "analyze record, dead_letter, event, inbound_count, alert, credit_transfer, delivery, connection,"
            " webhook_delivery"
        )
        await connection.execute(SINCE)
    found, blocks = await looked_at(database, name, *arguments)
    assert found == rows
    assert blocks <= PAGE_BLOCKS, f"{name} looks at {blocks} blocks for {rows} rows"


async def test_counts_of_one_customer_are_made_by_an_index_of_his_own(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(OTHERS)
        await connection.execute("analyze dead_letter")
        await connection.execute(SINCE)
    groups, blocks = await looked_at(database, "message_counts_customer", 100_000, "globex")
    assert (groups, blocks <= PAGE_BLOCKS) == (1, True)
