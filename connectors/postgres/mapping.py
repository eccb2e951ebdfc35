"""Readings to rows and back, and the statements of one table. Pure: no connection, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from connectors.kit.numbers import to_double
from gateway.model.outcome import Rejected
from gateway.model.reading import Reading
from gateway.model.sample import Value


def quote(name: str) -> str:
    """A delimited identifier: any name is safe in a statement."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """A reading as the table holds it. A boolean is 1 or 0 in `value` and `true` or `false` in `text_value`;
    a text has no `value`.
    """

    meter: str
    window_start: datetime
    value: float | None
    text_value: str | None
    unit: str | None
    key: str


def to_row(reading: Reading) -> TableRow | Rejected:
    """The row, or why PostgreSQL could never hold it."""
    number: float | None = None
    text: str | None = None
    match reading.value:
        case bool() as value:
            number, text = float(value), "true" if value else "false"
        case str() as value:
            text = value
        case int() | float() as value:
            double = to_double(value)
            if isinstance(double, Rejected):
                return double
            number = double
    for name, part in (("meter", reading.meter), ("value", text), ("unit", reading.unit)):
        if part is not None and not _is_storable(part):
            return Rejected(
                code="invalid_text",
                message=f"the {name} has a NUL character or is not valid Unicode: PostgreSQL cannot hold it",
            )
    return TableRow(
        meter=reading.meter,
        window_start=reading.window_start,
        value=number,
        text_value=text,
        unit=reading.unit,
        key=reading.key,
    )


def to_value(value: float | None, text_value: str | None) -> Value:
    """The reading's value from a row's two columns."""
    if text_value is None:
        return 0.0 if value is None else value
    if value is not None and text_value in ("true", "false"):
        return text_value == "true"
    return text_value


def columns(connection: str, rows: Sequence[TableRow]) -> tuple[object, ...]:
    """Arguments of the upsert: the connection, then one array per column."""
    return (
        connection,
        [row.meter for row in rows],
        [row.window_start for row in rows],
        [row.value for row in rows],
        [row.text_value for row in rows],
        [row.unit for row in rows],
        [row.key for row in rows],
    )


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


@dataclass(frozen=True, slots=True, kw_only=True)
class Statements:
    """SQL for one table, identifiers quoted; the table's name is the only thing that is not a parameter."""

    table: str
    upsert: str
    later: str
    find: str
    probe: str


def statements(schema: str, table: str, *, journal: bool, position: str | None = None) -> Statements:
    """The statements for `schema`.`table` and, with `journal`, `table`_journal. With `position` (the name of
    a column) a row is never replaced by one of an earlier position.
    """
    name = f"{quote(schema)}.{quote(table)}"
    journalled = _JOURNALLED.format(journal=f"{quote(schema)}.{quote(table + '_journal')}") if journal else ""
    if position is None:
        upsert, later = _UPSERT.format(table=name, journalled=journalled), ""
    else:
        named = {"table": name, "position": quote(position), "journalled": journalled}
        upsert, later = _UPSERT_AT.format(**named), _LATER.format(**named)
    return Statements(
        table=name,
        upsert=upsert,
        later=later,
        find=_FIND.format(table=name),
        probe=_PROBE.format(table=name),
    )


def creations(schema: str, table: str, *, journal: bool, position: str | None) -> list[tuple[str, str]]:
    """What makes the table and the journal, by table."""
    column = f"    {quote(position)} bigint, -- of the batch that wrote the row last\n" if position else ""
    made = [(table, _CREATE.format(table=f"{quote(schema)}.{quote(table)}", position=column))]
    if journal:
        name = table + "_journal"
        made.append((name, _CREATE_JOURNAL.format(journal=f"{quote(schema)}.{quote(name)}")))
    return made


EXISTS = """
select exists (
    select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = $1 and c.relname = $2
)"""

HAS_COLUMN = """
select exists (
    select from pg_catalog.pg_attribute a
    join pg_catalog.pg_class c on c.oid = a.attrelid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = $1 and c.relname = $2 and a.attname = $3 and a.attnum > 0 and not a.attisdropped
      and a.atttypid = 'bigint'::regtype
)"""

_CREATE = """
create table {table} (
    connection   text not null,
    meter        text not null,
    window_start timestamptz not null,
    value        double precision,
    text_value   text,
    unit         text,
    key          text not null,
    changes      int not null default 0, -- how often the value was changed after it was first written
    updated_at   timestamptz not null default now(),
{position}    primary key (connection, meter, window_start)
)"""

_CREATE_JOURNAL = """
create table {journal} (
    entry        bigint generated always as identity primary key,
    connection   text not null,
    meter        text not null,
    window_start timestamptz not null,
    value        double precision,
    text_value   text,
    unit         text,
    key          text not null,
    changes      int not null,           -- 0: the row was inserted
    written_at   timestamptz not null default now()
)"""

_UPSERT = """
with applied as (
    insert into {table} as held (connection, meter, window_start, value, text_value, unit, key)
    select $1::text, given.*
    from unnest($2::text[], $3::timestamptz[], $4::double precision[], $5::text[], $6::text[], $7::text[])
        as given (meter, window_start, value, text_value, unit, key)
    on conflict (connection, meter, window_start) do update
    set value = excluded.value, text_value = excluded.text_value, unit = excluded.unit, key = excluded.key,
        changes = held.changes + 1, updated_at = now()
    where (held.value, held.text_value, held.unit)
        is distinct from (excluded.value, excluded.text_value, excluded.unit)
    returning connection, meter, window_start, value, text_value, unit, key, changes, true as changed
){journalled}
select key, changed from applied"""

# Every row that ours may replace takes our position, also where it holds the value already: else one that was
# under way before ours would still replace it. A row that only took the position keeps its time, which tells
# it from one that changed.
_UPSERT_AT = """
with applied as (
    insert into {table} as held (connection, meter, window_start, value, text_value, unit, key, {position})
    select $1::text, given.*, $8::bigint
    from unnest($2::text[], $3::timestamptz[], $4::double precision[], $5::text[], $6::text[], $7::text[])
        as given (meter, window_start, value, text_value, unit, key)
    on conflict (connection, meter, window_start) do update
    set value = excluded.value, text_value = excluded.text_value, unit = excluded.unit, key = excluded.key,
        {position} = excluded.{position},
        changes = held.changes + (
            (held.value, held.text_value, held.unit)
            is distinct from (excluded.value, excluded.text_value, excluded.unit)
        )::int,
        updated_at = case
            when (held.value, held.text_value, held.unit)
                is distinct from (excluded.value, excluded.text_value, excluded.unit)
            then now() else held.updated_at end
    where held.{position} is null or held.{position} <= excluded.{position}
    returning connection, meter, window_start, value, text_value, unit, key, changes,
        coalesce(updated_at = now(), true) as changed
){journalled}
select key, changed from applied"""

_LATER = """
select wanted.key, held.{position}
from unnest($2::text[], $3::timestamptz[], $4::text[]) as wanted (meter, window_start, key)
join {table} held
    on held.connection = $1::text
    and held.meter = wanted.meter and held.window_start = wanted.window_start"""

_JOURNALLED = """, journalled as (
    insert into {journal} (connection, meter, window_start, value, text_value, unit, key, changes)
    select connection, meter, window_start, value, text_value, unit, key, changes from applied where changed
)"""

_FIND = """
select wanted.key, held.value, held.text_value, held.window_start
from unnest($2::text[], $3::timestamptz[], $4::text[]) as wanted (meter, window_start, key)
join {table} held
    on held.connection = $1::text
    and held.meter = wanted.meter and held.window_start = wanted.window_start"""

# Touches no row; fails where the role may not read or write the table, or where a column is missing.
_PROBE = """
select current_database(), current_setting('transaction_read_only') = 'on',
       has_table_privilege($1, 'select') and has_table_privilege($1, 'insert')
           and has_table_privilege($1, 'update')
from (
    select connection, meter, window_start, value, text_value, unit, key, changes, updated_at
    from {table} limit 0
) columns
right join (select 1) one on true"""
