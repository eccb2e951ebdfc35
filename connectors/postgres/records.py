"""Rows of any table or view to records, and the statements that read them. Pure: no connection, no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from connectors.kit.inbound import key_of, pack, unpack
from connectors.kit.json_text import parse_json
from connectors.kit.local_time import instants_of, walls_within
from connectors.postgres.mapping import quote
from connectors.postgres.streams import TableStream
from gateway.model.errors import BadConfiguration, CursorExpired, Unavailable
from gateway.model.inbound import InboundRecord

MAX_ROW_BYTES = 300_000
KEYS_PAGE = 10_000
# The time of a statement is taken before its transaction shows among the running ones.
_MARGIN = timedelta(seconds=1)
_Given = Callable[[object, str], str]
# As casts, these names would cut a text to one letter.
_CASTS = {"character": "bpchar", "bit": '"bit"'}
_TIMES = ("timestamp with time zone", "timestamp without time zone")

# The columns of a table or view with their types, as casts name them.
COLUMNS = """
select a.attname::text, format_type(a.atttypid, null)
from pg_catalog.pg_attribute a
join pg_catalog.pg_class c on c.oid = a.attrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped
order by a.attnum"""

# Who is in a transaction now, and may stamp rows with a time that has passed. Locks on virtual transaction
# ids, process ids and databases are shown to every role; since when somebody else's transaction is open, only
# to some. Processes without a user (autovacuum) stamp nothing.
RUNNING = """
select now(), pg_is_in_recovery(), pg_last_xact_replay_timestamp(),
       (select min(prepared) from pg_catalog.pg_prepared_xacts where database = current_database()),
       l.virtualtransaction, a.xact_start
from (select 1) one
left join (
    pg_catalog.pg_locks l join pg_catalog.pg_stat_activity a
    on a.pid = l.pid and a.datname = current_database() and a.usesysid is not null
) on l.locktype = 'virtualxid' and l.granted and l.pid <> pg_backend_pid()"""

_PAGE = """
select {keys}, {modified}, case when octet_length(body.document) > {limit} then null else body.document end,
       case when octet_length(body.document) > {limit} then left(body.document, {limit}) end
from (select * from {table} {where} order by {order} limit {page}) t
cross join lateral (select to_json(part.*)::text as document from (select {columns}) part) body
order by {qualified}"""

_KEYS = "select {keys} from {table} {where} order by {order} limit {page}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableShape:
    """A stream's table as the database has it: the types of its columns by name."""

    stream: TableStream
    types: Mapping[str, str]

    @property
    def table(self) -> str:
        """Quoted."""
        return f"{quote(self.stream.schema_name)}.{quote(self.stream.table)}"

    @property
    def is_local(self) -> bool:
        """Whether the time of change bears no zone."""
        return self.stream.modified is not None and self.types[self.stream.modified] == _TIMES[1]

    @property
    def zone(self) -> ZoneInfo:
        """Of times without one."""
        return ZoneInfo(self.stream.time_zone)


def shape(name: str, stream: TableStream, types: Mapping[str, str]) -> TableShape:
    """Raises BadConfiguration for a table that is not there, or lacks what the settings name."""
    if not types:
        raise BadConfiguration(
            f"settings.streams.{name}: there is no table or view {stream.schema_name}.{stream.table}, or the"
            " role may not see it"
        )
    named = (
        *stream.keys,
        *stream.select,
        *(path for path in (stream.modified, stream.reference) if path),
        *(words.path for words in (stream.progress, stream.deleted) if words),
    )
    if missing := sorted(set(named) - types.keys()):
        raise BadConfiguration(
            f"settings.streams.{name}: {stream.schema_name}.{stream.table} has no column {', '.join(missing)}"
        )
    if stream.modified is not None and types[stream.modified] not in _TIMES:
        raise BadConfiguration(
            f"settings.streams.{name}.modified: {stream.modified} is {types[stream.modified]}, and has to be"
            " timestamptz or timestamp"
        )
    return TableShape(stream=stream, types=types)


def page_query(
    at: TableShape,
    since: datetime | None,
    until: datetime | None,
    cursor: str | None,
    *,
    is_open: bool = False,
) -> tuple[str, list[object]]:
    """The rows of [since, until) behind the cursor, in the order of time and key: with equal times none is
    left out and none comes twice, whatever changes meanwhile. With `is_open` what is not closed, by key.
    """
    stream = at.stream
    arguments: list[object] = []
    conditions: list[str] = []

    def given(value: object, kind: str) -> str:
        arguments.append(value)
        return f"${len(arguments)}::{kind}"

    timed = stream.modified is not None and not is_open
    order = [quote(column) for column in ((stream.modified or "", *stream.keys) if timed else stream.keys)]
    if timed and until is not None:
        lower, upper = _bounds(at, since, until)
        kind = at.types[stream.modified or ""]
        conditions += [f"{order[0]} < {given(upper, kind)}"]
        conditions += [] if lower is None else [f"{order[0]} >= {given(lower, kind)}"]
    if is_open and stream.progress is not None:
        conditions.append(
            f"{quote(stream.progress.path)}::text = any({given(list(stream.open_words), 'text[]')})"
        )
    if cursor is not None:
        names = (stream.modified or "", *stream.keys) if timed else stream.keys
        conditions.append(_behind(at, names, order, cursor, given))
    selected = stream.select or tuple(at.types)
    query = _PAGE.format(
        keys=", ".join(f"t.{quote(column)}::text" for column in stream.keys),
        modified=f"t.{quote(stream.modified)}::text" if stream.modified else "null::text",
        columns=", ".join(_as_json(at, column) for column in selected),
        table=at.table,
        where=f"where {' and '.join(conditions)}" if conditions else "",
        order=", ".join(order),
        qualified=", ".join(f"t.{column}" for column in order),
        page=stream.page,
        limit=MAX_ROW_BYTES,
    )
    return query, arguments


def keys_query(at: TableShape, cursor: str | None) -> tuple[str, list[object]]:
    """A page of every key."""
    stream = at.stream
    arguments: list[object] = []
    conditions: list[str] = []

    def given(value: object, kind: str) -> str:
        arguments.append(value)
        return f"${len(arguments)}::{kind}"

    order = [quote(column) for column in stream.keys]
    if stream.deleted is not None:
        column = quote(stream.deleted.path)
        words = given(list(stream.deleted.words or ("", "false", "0")), "text[]")
        is_deleted = f"{column}::text = any({words})"
        conditions.append(
            f"not coalesce({is_deleted}, false)" if stream.deleted.words else f"coalesce({is_deleted}, true)"
        )
    if cursor is not None:
        conditions.append(_behind(at, stream.keys, order, cursor, given))
    return (
        _KEYS.format(
            keys=", ".join(f"{column}::text" for column in order),
            table=at.table,
            where=f"where {' and '.join(conditions)}" if conditions else "",
            order=", ".join(order),
            page=KEYS_PAGE,
        ),
        arguments,
    )


def to_record(
    at: TableShape, row: Sequence[object], *, within: tuple[datetime | None, datetime] | None
) -> InboundRecord | None:
    """None for a row that certainly changed outside `within`: around a turn of the
    clock more was asked for.
    """
    stream = at.stream
    count = len(stream.keys)
    keys, modified, document, cut = row[:count], row[count], row[count + 1], row[count + 2]
    moments = _moments(at, modified)
    if within is not None and moments and not _is_within(moments, within):
        return None
    if isinstance(document, str):
        read = parse_json(document.encode())
        body: Mapping[str, object] = read if isinstance(read, dict) else {"text": document}
    else:
        body = {"text": cut}
    progress, gone = stream.progress, stream.deleted
    return InboundRecord(
        key=key_of(keys, None),  # no column of it is null, so a walk of keys alone gives the same
        modified_at=moments[0] if len(moments) == 1 else None,
        body=body,
        is_deleted=gone is not None and gone.say(body.get(gone.path)),
        progress=None if progress is None else progress.of(body.get(progress.path)),
        reference=_text(body.get(stream.reference)) if stream.reference else None,
    )


def cursor_of(at: TableShape, row: Sequence[object], *, timed: bool) -> str:
    """Behind this row."""
    count = len(at.stream.keys)
    place = [*([row[count]] if timed else []), *row[:count]]
    return pack(behind=place)


def keys_cursor(row: Sequence[object]) -> str:
    """Behind this key."""
    return pack(behind=list(row))


def _behind(at: TableShape, names: Sequence[str], order: Sequence[str], cursor: str, given: _Given) -> str:
    place = unpack(cursor).get("behind")
    if not isinstance(place, list) or len(place) != len(names):
        raise CursorExpired("the cursor of the page is of other settings: the interval is read again")
    values = [
        f"({given(value, 'text')})::{_CASTS.get(at.types[name], at.types[name])}"
        for name, value in zip(names, place, strict=True)
    ]
    return f"({', '.join(order)}) > ({', '.join(values)})"


def _bounds(at: TableShape, since: datetime | None, until: datetime) -> tuple[datetime | None, datetime]:
    return walls_within(since, until, at.zone) if at.is_local else (since, until)


def _moments(at: TableShape, modified: object) -> tuple[datetime, ...]:
    try:
        moment = datetime.fromisoformat(modified) if isinstance(modified, str) else None
        if moment is None:
            return ()
        return instants_of(moment, at.zone) if moment.tzinfo is None else (moment.astimezone(UTC),)
    except (ValueError, OverflowError):  # before Christ, or at infinity
        return ()


def _is_within(moments: Sequence[datetime], within: tuple[datetime | None, datetime]) -> bool:
    since, until = within
    return any((since is None or moment >= since) and moment < until for moment in moments)


def _as_json(at: TableShape, column: str) -> str:
    """A decimal becomes a text: a number of JSON would not keep each of its digits. So does a text of a fixed
    length, without the blanks that fill it: words and keys are compared.
    """
    is_text = at.types[column] in ("numeric", "character")
    return f"t.{quote(column)}::text as {quote(column)}" if is_text else f"t.{quote(column)}"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


class Horizon:
    """Until when everything that was stamped with its time is visible: no later than the begin of the oldest
    transaction that is still open, because it may stamp rows with that begin and commit them afterwards.

    Where the server does not say since when a transaction is open, it began after the look before at which it
    was not there yet.
    """

    def __init__(self) -> None:
        self._began: dict[str, datetime] = {}
        self._looked_at: datetime | None = None

    def settled(self, rows: Sequence[Sequence[object]], patience: timedelta) -> datetime:
        """From the rows of RUNNING. A transaction that is open for longer than
        `patience` is not waited for.
        """
        now, is_standby, replayed, prepared = rows[0][:4]
        if not isinstance(now, datetime):
            raise Unavailable("PostgreSQL does not say what time it is")
        earliest = now - patience
        if is_standby:  # who is at work at its primary cannot be seen
            return min(replayed - patience, earliest) if isinstance(replayed, datetime) else earliest
        began: dict[str, datetime] = {}
        for row in rows:
            name, begin = row[4], row[5]
            if not isinstance(name, str):
                continue
            if not isinstance(begin, datetime):  # not told: it was there by the last look, or began since
                begin = self._began.get(name, self._looked_at or earliest)
            began[name] = begin
        self._began = began
        self._looked_at = now
        bounds = [now - _MARGIN, *self._began.values()]
        if isinstance(prepared, datetime):  # it began at some time before
            bounds.append(prepared - patience)
        return max(min(bounds), earliest)
