"""Judges the log by the rules of a connection: slice by slice, each in one fenced transaction with its alerts
and the place up to which it was judged. What a fold makes of samples `gateway.model.alerts` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.alerts import life
from gateway.model import alerts
from gateway.model.alert_life import AlertState, AlertTrigger, Why
from gateway.model.alert_rule import Silent, observed
from gateway.model.alerts import AlertChanges, Episode, FoldResult, Point, RuleState, Standing
from gateway.model.sample import Metrics, to_microseconds
from gateway.store import alert_streams, judgements, windows
from gateway.store import alerts as store
from gateway.store.alert_streams import AlertClaim, BegunRule
from gateway.store.judgements import Judgement
from gateway.store.pool import Connection, Database

SLICE_ROWS = 2_000
"""Judging one takes some ten milliseconds of the loop that everybody's telemetry goes through."""

FIRST_PAGE = 200
MAX_EARLIER = 1_000_000
"""Samples before a late one that are read again: as many as `for` may hold of a device that sends often."""

SILENT_AT_ONCE = 500
NOBODY_LISTENS_SECONDS = 30.0


@dataclass(slots=True)
class SliceResult:
    """Of one transaction: how many alerts changed. `is_last`: nothing is left for the moment."""

    is_last: bool
    changed: int = 0


@dataclass(slots=True)
class _Slice:
    connection: Connection
    claim: AlertClaim
    judgements: dict[tuple[str, str], Judgement]
    opened: dict[tuple[str, str], Standing]
    put: list[tuple[str, str, RuleState, float | None]] = field(default_factory=list)
    changed: int = 0


async def judge_slice(database: Database, claim: AlertClaim) -> SliceResult:
    """Judges the next slice of the log and moves the place in it. Raises LeaseLost, StoreError."""
    async with database.transaction() as connection:
        watermark = await alert_streams.watermark(connection, claim)
        part = await windows.next_slice(connection, claim.customer, watermark, SLICE_ROWS)
        if part.until == watermark:
            return SliceResult(is_last=True)
        rules = await alert_streams.read_rules(connection, claim.connection)
        found = await judgements.samples(connection, claim.customer, part.after, part.until)
        wanted = {device: [begun for begun in rules if begun.rule.matches(device)] for device in found}
        devices = sorted(device for device, matching in wanted.items() if matching)
        work = _Slice(
            connection=connection,
            claim=claim,
            judgements=await judgements.read(connection, claim.connection, devices) if devices else {},
            opened=await store.open_of(connection, claim.connection, devices) if devices else {},
        )
        for device in devices:
            for begun in wanted[device]:
                await _judge_device(work, begun, device, found[device])
        await judgements.put(connection, claim.connection, work.put)
        await judgements.advance(connection, claim.connection, part.until)
        await alert_streams.prove(connection, claim)
    return SliceResult(is_last=part.is_last, changed=work.changed)


async def _judge_device(
    work: _Slice, begun: BegunRule, device: str, samples: Sequence[tuple[int, Metrics]]
) -> None:
    key = (begun.rule.id, device)
    known = work.judgements.get(key)
    state = RuleState() if known is None else known.state
    if state.phase == "open" and key not in work.opened:
        state = RuleState()  # its device was taken for gone while it was judged: it begins anew
    if isinstance(begun.rule.condition, Silent):  # whenever it was measured
        if heard := [at for at, metrics in samples if observed(begun.rule, metrics) is not None]:
            await _heard(work, begun, device, max(state.at, *heard))
        return
    changed = _changed(begun, samples)
    if not changed:
        return
    first = changed[0]
    if first > state.at:
        points = _points(begun, samples)
        if not points:
            return
        current = work.opened.get(key)
        standing = [] if current is None else [current]
        judged = alerts.judge(begun.rule, state, points, open_episode=_episode(state, current))
    else:
        standing = await store.standing(
            work.connection, work.claim.connection, begun.rule.id, begun.begun_at, device, first
        )
        judged = await _again(
            work, begun, device, standing, first=first, last=changed[-1], judged_to=state.at
        )
    await _apply(work, begun, device, alerts.reconciled(standing, judged, first=first))
    after = state if judged.met_at is not None else judged.state
    work.put.append((*key, after, None))


def _changed(begun: BegunRule, samples: Sequence[tuple[int, Metrics]]) -> list[int]:
    """When these samples were measured that have the rule's metric, since it began: also one that says
    nothing now may have said something before it was corrected.
    """
    start, metric = to_microseconds(begun.begun_at), begun.rule.metric
    return [at for at, metrics in samples if at >= start and metric in metrics]


def _points(begun: BegunRule, samples: Sequence[tuple[int, Metrics]]) -> list[Point]:
    """What these samples say to the rule, since it began."""
    start = to_microseconds(begun.begun_at)
    return [
        Point(at=at, value=value)
        for at, metrics in samples
        if at >= start and (value := observed(begun.rule, metrics)) is not None
    ]


def _episode(state: RuleState, current: Standing | None) -> Episode | None:
    if state.phase != "open":
        return None
    assert current is not None, "what is judged as open has an alert"
    return Episode(since=current.since, opened_at=current.opened_at, value=current.value)


async def _again(
    work: _Slice,
    begun: BegunRule,
    device: str,
    standing: Sequence[Standing],
    *,
    first: int,
    last: int,
    judged_to: int,
) -> FoldResult:
    """The fold from before the first change. Reads no more of the device's log than it takes to meet what
    stands.
    """
    rule, customer = begun.rule, work.claim.customer
    heard = await judgements.heard_before(work.connection, customer, device, first, rule)
    start = first if heard is None else max(0, alerts.reads_from(rule, standing, first, heard))
    earlier = await judgements.history(work.connection, customer, device, start, first - 1, MAX_EARLIER)
    state = alerts.before(rule, standing, _points(begun, earlier), first)
    until, page = max(last, judged_to), FIRST_PAGE
    while True:
        later = await judgements.history(work.connection, customer, device, first, until, page)
        judged = alerts.rejudge(
            rule, standing, state, _points(begun, later), first=first, last=last, judged_to=judged_to
        )
        if judged.met_at is not None or len(later) < page:
            return judged
        page *= 10


async def _apply(work: _Slice, begun: BegunRule, device: str, changed: AlertChanges) -> None:
    """Withdrawals first, then what is over, then what is open: at most one is open at any moment."""
    for alert in changed.withdrawn:
        held = (await store.some(work.connection, [alert]))[0]
        times = (to_microseconds(held.since), to_microseconds(held.opened_at))
        over_at = held.well_at or held.opened_at
        await _retime(work, alert, *times, to_microseconds(over_at), Why.LATE_SAMPLE)
    for alert, episode in sorted(changed.moved, key=lambda pair: pair[1].cleared_at is None):
        why = None if episode.cleared_at is None else Why.WELL
        await _retime(work, alert, episode.since, episode.opened_at, episode.cleared_at, why)
    for episode in changed.opened:
        await store.open_alert(
            work.connection,
            work.claim.customer,
            work.claim.connection,
            begun.rule,
            begun.begun_at,
            device,
            episode,
        )
        work.changed += 1


async def _retime(
    work: _Slice, alert: str, since: int, opened_at: int, cleared_at: int | None, why: Why | None
) -> None:
    held = await store.retime(
        work.connection, alert, since=since, opened_at=opened_at, cleared_at=cleared_at, why=why
    )
    if why is not None:
        await life.settle(work.connection, held)
    elif held.state is AlertState.CLEARED and held.raised_at is None:
        await life.move(work.connection, held, AlertTrigger.RESUMED_UNRAISED, due_in_seconds=0.0)
    elif held.state is AlertState.CLEARED:
        await life.move(work.connection, held, AlertTrigger.RESUMED)
    work.changed += 1


# Silence: by receipt, for a device's own clock may be wrong by more than anybody waits


async def _heard(work: _Slice, begun: BegunRule, device: str, at: int) -> None:
    condition = begun.rule.condition
    assert isinstance(condition, Silent)
    current = work.opened.get((begun.rule.id, device))
    if current is not None:
        over_at = max(current.opened_at, await _now(work.connection))
        await _retime(work, current.alert, current.since, current.opened_at, over_at, Why.WELL)
    work.put.append((begun.rule.id, device, RuleState(at=at), condition.after.total_seconds()))


async def _now(connection: Connection) -> int:
    return to_microseconds(await connection.fetchval("select now()"))


async def judge_silence(database: Database, claim: AlertClaim) -> SliceResult:
    """Looks at the devices whose silence is due; those that are not asked for cost
    nothing. Raises LeaseLost.
    """
    async with database.transaction() as connection:
        await alert_streams.watermark(connection, claim)  # takes the row: the rules stay until we commit
        due = await judgements.silences(connection, claim.connection, SILENT_AT_ONCE)
        if not due:
            return SliceResult(is_last=True)
        rules = {
            begun.rule.id: begun for begun in await alert_streams.read_rules(connection, claim.connection)
        }
        looked, changed = list[tuple[str, str, float | None]](), 0
        for found in due:
            begun = rules.get(found.rule)
            if begun is None or not isinstance(begun.rule.condition, Silent):
                looked.append((found.rule, found.device, None))
                continue
            after = begun.rule.condition.after.total_seconds()
            if found.seconds is None:
                looked.append((found.rule, found.device, NOBODY_LISTENS_SECONDS))
                continue
            wait = after - found.seconds
            if begun.rule.hold_off:
                over_at = await store.last_well_at(connection, claim.connection, found.rule, found.device)
                if over_at is not None:
                    wait = max(wait, (over_at + begun.rule.hold_off - found.now).total_seconds())
            if wait > 0:
                looked.append((found.rule, found.device, wait))
                continue
            heard = to_microseconds(found.heard_at)
            episode = Episode(
                since=heard, opened_at=to_microseconds(found.now), value=f"silent for {found.seconds:.0f} s"
            )
            await store.open_alert(
                connection,
                claim.customer,
                claim.connection,
                begun.rule,
                begun.begun_at,
                found.device,
                episode,
            )
            looked.append((found.rule, found.device, None))
            changed += 1
        await judgements.looked_at(connection, claim.connection, looked)
        await alert_streams.prove(connection, claim)
    return SliceResult(is_last=len(due) < SILENT_AT_ONCE, changed=changed)
