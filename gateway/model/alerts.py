"""The judge: what a device's log says to a rule. Pure, and the same for any order of arrival.

**The law.** `judge` is a fold over the samples of one device in order of device time. Each sample makes of
the state before it the state after it:

- `well` and the condition holds: `building` since this sample;
- `building` and it does not hold: `well`;
- `building`, it holds, `for` has passed since it began, and `hold_off` since the last alert was over: `open`;
- `open` and the value clears it: `well`, held off until `hold_off` has passed.

An **episode** is what was open from one sample to another. The alerts of a rule and a device are the episodes
of its log, however the samples came.

**Late samples.** What comes in order goes on from the stored state. What comes late, or corrects what was
judged, makes the fold begin again before the first change (`before`), and go on until it meets what was
judged before (`rejudge`): both are open, or both are well with nothing held off. From there on everything is
as it was. `reconciled` then says what has to be done about the alerts that stand: one that overlaps an
episode is that episode's and follows its times; one that overlaps none is withdrawn; an episode without one
is a new alert.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gateway.model.alert_rule import AlertRule, Changes, breaches, clears, remember
from gateway.model.sample import MICROSECOND, Value

Phase = Literal["well", "building", "open"]
NEVER = -(2**62)
"""Before every device time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What one sample says to a rule. Times are device time, in microseconds since the epoch."""

    at: int
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleState:
    """After the sample at `at`. `since`: when what is building or open began. `hold_until`: nothing opens
    before. `recent`: the extremes that a change is compared with.
    """

    at: int = NEVER
    phase: Phase = "well"
    since: int = NEVER
    hold_until: int = NEVER
    recent: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """A rule was broken from `opened_at`, having begun `since`, to `cleared_at`; None: it still is. `value`:
    with which it opened.
    """

    since: int
    opened_at: int
    value: Value
    cleared_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """An alert as it is stored, unless it was withdrawn."""

    alert: str
    since: int
    opened_at: int
    cleared_at: int | None
    value: Value = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldResult:
    """What a fold found. `met_at`: where it met what was judged before, and the state
    of then is still right.
    """

    state: RuleState
    episodes: tuple[Episode, ...]
    met_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertChanges:
    """What is to be done about alerts, in this order: `withdrawn` are no episodes, `moved` have other times,
    `opened` are new.
    """

    withdrawn: tuple[str, ...] = ()
    moved: tuple[tuple[str, Episode], ...] = ()
    opened: tuple[Episode, ...] = ()


def step(rule: AlertRule, state: RuleState, point: Point) -> RuleState:
    """The state after one more sample, later than every one before."""
    at, value = point.at, point.value
    recent = remember(rule.condition, state.recent, at, value)
    state = replace(state, at=at, recent=recent)
    if state.phase == "open":
        if not clears(rule.condition, value, recent):
            return state
        return replace(state, phase="well", since=NEVER, hold_until=at + rule.hold_off // MICROSECOND)
    if not breaches(rule.condition, value, recent):
        return state if state.phase == "well" else replace(state, phase="well", since=NEVER)
    since = at if state.phase == "well" else state.since
    ripe = at >= since + rule.lasts // MICROSECOND and at >= state.hold_until
    return replace(state, phase="open" if ripe else "building", since=since)


def judge(
    rule: AlertRule, state: RuleState, points: Iterable[Point], *, open_episode: Episode | None = None
) -> FoldResult:
    """The fold, over points in ascending order. `open_episode`: the one that is open in `state`."""
    episodes: list[Episode] = [] if open_episode is None else [open_episode]
    for point in points:
        state = _step_and_note(rule, state, point, episodes)
    return FoldResult(state=state, episodes=tuple(episodes))


def _step_and_note(rule: AlertRule, state: RuleState, point: Point, episodes: list[Episode]) -> RuleState:
    """As `step`; an episode that opens or closes with it is noted in `episodes`."""
    after = step(rule, state, point)
    if after.phase == "open" and state.phase != "open":
        episodes.append(Episode(since=after.since, opened_at=point.at, value=point.value))
    elif state.phase == "open" and after.phase != "open":
        episodes[-1] = replace(episodes[-1], cleared_at=point.at)
    return after


def reads_from(rule: AlertRule, standing: Sequence[Standing], first: int, heard: int) -> int:
    """From where samples have to be read to know the state before `first`; `heard`: the newest one before it.

    What is building at `heard` began less than `for` before it, or else it would be open, unless it is held
    off: then it began after the last alert was over. A change is compared with what lies `within` before
    that.
    """
    last = _last_before(standing, first)
    start = heard - rule.lasts // MICROSECOND
    if (
        last is not None
        and last.cleared_at is not None
        and heard < last.cleared_at + rule.hold_off // MICROSECOND
    ):
        start = min(start, last.cleared_at)
    within = rule.condition.within // MICROSECOND if isinstance(rule.condition, Changes) else 0
    return min(start, heard) - within


def before(rule: AlertRule, standing: Sequence[Standing], earlier: Iterable[Point], first: int) -> RuleState:
    """The state before `first`, from the alerts that stand and the samples since `reads_from`.

    Nothing opens in here, for no alert stands: where the samples would have it so, they have changed too, and
    are judged when their change is.
    """
    last = _last_before(standing, first)
    is_open = last is not None and (last.cleared_at is None or last.cleared_at >= first)
    over_at = NEVER if last is None or last.cleared_at is None else last.cleared_at
    hold_until = NEVER if is_open or over_at == NEVER else over_at + rule.hold_off // MICROSECOND
    state = RuleState(hold_until=hold_until)
    for point in earlier:
        if is_open or point.at <= over_at:  # only what a change is compared with
            recent = remember(rule.condition, state.recent, point.at, point.value)
            state = replace(state, at=point.at, recent=recent)
            continue
        after = step(rule, state, point)
        state = replace(after, phase="building") if after.phase == "open" else after
    if is_open and last is not None:
        return replace(state, phase="open", since=last.since)
    return state


def _last_before(standing: Sequence[Standing], first: int) -> Standing | None:
    return max(
        (alert for alert in standing if alert.opened_at < first),
        key=lambda alert: alert.opened_at,
        default=None,
    )


def rejudge(
    rule: AlertRule,
    standing: Sequence[Standing],
    state: RuleState,
    points: Iterable[Point],
    *,
    first: int,
    last: int,
    judged_to: int,
) -> FoldResult:
    """The fold from `first` on, until past the `last` change it meets what was judged before, which went to
    `judged_to`. `state`: from `before`.

    `points` may be read lazily: none is asked for past the meeting. What lies past both ends has a slice of
    its own to come, and is left to it: nothing was judged there that could be met.
    """
    episodes: list[Episode] = []
    if state.phase == "open":
        old = _last_before(standing, first)
        assert old is not None
        episodes.append(Episode(since=old.since, opened_at=old.opened_at, value=old.value))
    settled = last + (rule.condition.within // MICROSECOND if isinstance(rule.condition, Changes) else 0)
    for point in points:
        if point.at > max(last, judged_to):
            break
        state = _step_and_note(rule, state, point, episodes)
        if point.at > settled and _meets(rule, standing, state):
            if state.phase == "open":
                then = _open_at(standing, point.at)
                assert then is not None
                episodes[-1] = replace(episodes[-1], cleared_at=then.cleared_at)
            return FoldResult(state=state, episodes=tuple(episodes), met_at=point.at)
    return FoldResult(state=state, episodes=tuple(episodes))


def _meets(rule: AlertRule, standing: Sequence[Standing], state: RuleState) -> bool:
    """Whether from here on everything is as it was judged before."""
    was_open = _open_at(standing, state.at) is not None
    if state.phase == "open" or was_open:
        return state.phase == "open" and was_open
    held_off = max(
        (a.cleared_at for a in standing if a.cleared_at is not None and a.cleared_at <= state.at),
        default=NEVER,
    )
    was_held_until = NEVER if held_off == NEVER else held_off + rule.hold_off // MICROSECOND
    return state.phase == "well" and state.hold_until <= state.at and was_held_until <= state.at


def _open_at(standing: Sequence[Standing], at: int) -> Standing | None:
    for alert in standing:
        if alert.opened_at <= at and (alert.cleared_at is None or at < alert.cleared_at):
            return alert
    return None


def reconciled(standing: Sequence[Standing], judged: FoldResult, *, first: int) -> AlertChanges:
    """What has to change of the alerts that reach to `first` or later, up to where the judgement ends. Each
    episode is of the first alert that overlaps it and is of none yet.
    """
    until = judged.met_at
    touched = [
        alert
        for alert in sorted(standing, key=lambda alert: alert.opened_at)
        if (alert.cleared_at is None or alert.cleared_at >= first)
        and (until is None or alert.opened_at <= until)
    ]
    withdrawn: list[str] = []
    moved: list[tuple[str, Episode]] = []
    opened = list(judged.episodes)
    for alert in touched:
        found = next((episode for episode in opened if _overlap(alert, episode)), None)
        if found is None:
            withdrawn.append(alert.alert)
            continue
        opened.remove(found)
        if (alert.since, alert.opened_at, alert.cleared_at) != (
            found.since,
            found.opened_at,
            found.cleared_at,
        ):
            moved.append((alert.alert, found))
    return AlertChanges(withdrawn=tuple(withdrawn), moved=tuple(moved), opened=tuple(opened))


def _overlap(alert: Standing, episode: Episode) -> bool:
    return (episode.cleared_at is None or alert.opened_at <= episode.cleared_at) and (
        alert.cleared_at is None or episode.opened_at <= alert.cleared_at
    )


def to_document(state: RuleState) -> dict[str, object]:
    """The state as it is stored; its time has a column of its own."""
    return {
        "phase": state.phase,
        "since": state.since,
        "hold_until": state.hold_until,
        "recent": [list(pair) for pair in state.recent],
    }


def from_document(document: dict[str, object], at: int) -> RuleState:
    """A stored state."""
    recent = document["recent"]
    assert isinstance(recent, list)
    return RuleState(
        at=at,
        phase=document["phase"],  # type: ignore[arg-type]
        since=document["since"],  # type: ignore[arg-type]
        hold_until=document["hold_until"],  # type: ignore[arg-type]
        recent=tuple((pair[0], pair[1]) for pair in recent),
    )
