"""Alerts on a real database: judged from the stored log, raised once, followed,
cleared, and never left open.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from benchmarks.servers import patient
from gateway import clock
from gateway.alerts import call
from gateway.alerts.upkeep import upkeep
from gateway.model.alert_life import AlertState
from gateway.model.alert_rule import Above, AlertRule, Changes, Equals, Silent, observed
from gateway.model.errors import (
    AuthRefused,
    ConnectorError,
    LeaseLost,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from gateway.model.exchange import EventToRaise
from gateway.model.outcome import Accepted, Outcome, Rejected, Retry, Unknown
from gateway.model.quota import Excess, QuotaKind
from gateway.model.sample import Value, to_microseconds
from gateway.store import alert_streams, judgements, quotas
from gateway.store.alert_streams import AlertClaim
from gateway.store.alerts import Alert
from gateway.store.pool import Connection, Database
from tests.fixtures.alerting import HOT, references, rig_on
from tests.fixtures.judging import law
from tests.fixtures.sync_rig import BASE, MINUTE


async def test_an_alert_lives_from_the_sample_to_the_note(database: Database) -> None:
    rig = await rig_on(database).activate()
    await rig.sent((BASE, 91), (BASE + MINUTE, 95))
    (alert,) = await rig.work()
    assert (alert.state, alert.remote_id) == (AlertState.RAISED, "N0")
    assert (alert.since, alert.opened_at, alert.value) == (BASE, BASE, 91)
    assert references(rig.system) == [alert.alert]
    event = rig.system.raised[0]
    assert (event.kind, event.severity, event.meter) == ("notification", "medium", "pump-1")
    assert event.title == "pump-1: t is 91"
    await rig.record("N0", "open")
    assert (await rig.work())[0].state is AlertState.RAISED
    await rig.record("N0", "acknowledged")
    assert (await rig.work())[0].state is AlertState.ACKNOWLEDGED
    await rig.record("N0", "closed")
    assert (await rig.work())[0].state is AlertState.CLOSED
    await rig.sent((BASE + 2 * MINUTE, 84))
    (alert,) = await rig.work()
    assert (alert.state, alert.well_at, alert.why) == (AlertState.CLEARED, BASE + 2 * MINUTE, "well")
    assert not alert.noting and alert.due_at is None
    assert [key for key, _ in rig.system.notes] == ["N0"]
    assert await rig.told() == ["raised", "acknowledged", "acknowledged", "cleared"]
    assert [data["state"] for _, data in await rig.events()] == [
        "raised",
        "acknowledged",
        "closed",
        "cleared",
    ]


async def test_it_is_followed_by_its_reference_and_a_deleted_record_is_closed(database: Database) -> None:
    rig = await rig_on(database).activate()
    rig.system.on_raise = answering(Accepted())  # the system gives no id
    await rig.sent((BASE, 91))
    (alert,) = await rig.work()
    await rig.record("4711", "open", reference=alert.alert)
    await rig.work()
    await rig.record("4711", "open", reference=alert.alert, deleted=True)
    assert [str(a.state) for a in await rig.work()] == ["closed"]


def answering(*answers: Outcome | ConnectorError) -> object:
    """Answers in this order, then well."""
    left = list(answers)

    async def answer(event: EventToRaise) -> Outcome | None:
        if not left:
            return None
        found = left.pop(0)
        if isinstance(found, ConnectorError):
            raise found
        return found

    return answer


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (Unavailable("503"), "raising"),
        (OutcomeUnknown("cut"), "raising"),
        (Unknown(message="?"), "raising"),
        (RateLimited("429", retry_after=1.0), "pending"),
        (Retry(after_seconds=1.0, message="locked"), "pending"),
        (PermissionDenied("no"), "pending"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
async def test_what_is_not_taken_is_raised_later_and_once(
    database: Database, answer: Outcome | ConnectorError, state: str
) -> None:
    rig = await rig_on(database).activate()
    rig.system.on_raise = answering(answer)
    await rig.sent((BASE, 91))
    assert [str(alert.state) for alert in await rig.work()] == [state]
    (alert,) = await rig.work(2)
    assert alert.state is AlertState.RAISED
    assert references(rig.system) == [alert.alert]
    told = await rig.told()
    assert told == (["failed", "raised"] if isinstance(answer, PermissionDenied) else ["raised"])


async def test_an_answer_that_was_lost_is_asked_for_and_not_raised_again(database: Database) -> None:
    rig = await rig_on(database).activate()

    async def cut(event: EventToRaise) -> Outcome | None:
        rig.system.take_event(event)
        raise OutcomeUnknown("cut")

    rig.system.on_raise = cut
    await rig.sent((BASE, 91))
    assert [str(alert.state) for alert in await rig.work()] == ["raising"]
    rig.system.on_raise = None
    (alert,) = await rig.work()
    assert (alert.state, alert.remote_id) == (AlertState.RAISED, "N0")
    assert references(rig.system) == [alert.alert]


async def test_without_a_reference_that_stays_a_lost_answer_doubles(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above guards: with a new reference for each call the system cannot know that it is the
    same.
    """
    real, numbers = call._event, iter(range(10))
    monkeypatch.setattr(
        call, "_event", lambda *of: replace(real(*of), reference=f"{real(*of).reference[:18]}{next(numbers)}")
    )
    rig = await rig_on(database).activate()

    async def cut(event: EventToRaise) -> Outcome | None:
        rig.system.take_event(event)
        rig.system.on_raise = None
        raise OutcomeUnknown("cut")

    rig.system.on_raise = cut
    await rig.sent((BASE, 91))
    await rig.work(2)
    assert len(rig.system.raised) == 2


async def test_an_unknown_outcome_is_not_asked_before_the_wait(database: Database) -> None:
    rig = rig_on(database)
    rig.settings = rig.settings.model_copy(update={"unknown_wait": timedelta(seconds=30)})
    await rig.activate()
    rig.system.on_raise = answering(OutcomeUnknown("cut"))
    await rig.sent((BASE, 91))
    await rig.work()
    await rig.execute("update alert_stream set next_run_at = now(), calls_at = now()")
    assert not await rig.claimed_alerts(due=False)
    await rig.sent((BASE + MINUTE, 92))
    await rig.alert_runner().run(await rig.claim_alerts(due=False), rig.link)
    assert await rig.states() == ["raising"]
    assert rig.system.looked_up == 1


async def test_what_the_system_refuses_fails_is_told_and_ends_with_the_condition(database: Database) -> None:
    rig = await rig_on(database).activate()
    rig.system.on_raise = answering(Rejected(code="type", message="notification type M9 is unknown"))
    await rig.sent((BASE, 91))
    (alert,) = await rig.work()
    assert (alert.state, alert.error) == (AlertState.FAILED, "type: notification type M9 is unknown")
    await rig.sent((BASE + MINUTE, 10))
    assert [str(alert.state) for alert in await rig.work()] == ["cleared"]
    assert not rig.system.notes  # there is nothing to write to
    (failed, data), (cleared, _) = await rig.events()
    assert (failed, cleared) == ("alert.failed", "alert.cleared")
    assert data["reason"] == "type: notification type M9 is unknown"


@pytest.mark.parametrize("state", ["paused", "reauthorization_required", "blocked", "verifying"])
async def test_what_happens_while_the_system_may_not_be_called_is_raised_later(
    database: Database, state: str
) -> None:
    """It opens, and is over, and opens again: each of them happened."""
    rig = await rig_on(database).activate()
    await rig.execute("update connection set state = $1, prior_state = 'active'", state)
    await rig.sent((BASE, 91), (BASE + MINUTE, 80), (BASE + 2 * MINUTE, 99))
    assert [str(alert.state) for alert in await rig.work(2)] == ["pending", "pending"]
    assert not rig.system.looked_up
    await rig.execute("update connection set state = 'active', prior_state = null")
    first, second = await rig.work()
    assert (first.state, second.state) == (AlertState.CLEARED, AlertState.RAISED)
    assert references(rig.system) == [first.alert, second.alert]
    assert await rig.told() == ["raised", "cleared", "raised"]


async def test_a_credential_that_is_refused_is_the_connections_affair(database: Database) -> None:
    rig = await rig_on(database).activate()
    rig.system.on_raise = answering(AuthRefused("401"))
    rig.system.probe_error = AuthRefused("401")
    await rig.sent((BASE, 91))
    assert [str(alert.state) for alert in await rig.work()] == ["pending"]
    assert await rig.state() == "reauthorization_required"
    await rig.work()
    assert rig.system.looked_up == 1


async def test_a_permission_that_is_missing_stops_no_readings_and_is_told_once(database: Database) -> None:
    rig = await rig_on(database).activate()
    rig.system.on_raise = answering(*[PermissionDenied("no")] * 3)
    await rig.sent((BASE, 91))
    await rig.work(3)
    assert await rig.state() == "active"
    assert await rig.told() == ["failed"]
    (trouble,) = await rig.rows("select part, detail from connection_trouble")
    assert trouble["part"] == "raise" and "asked again each hour: no" in trouble["detail"]
    await rig.work()
    assert await rig.states() == ["raised"]
    assert not await rig.rows("select from connection_trouble")


# Late samples


async def test_an_alert_that_was_refused_is_not_raised_by_a_late_sample(database: Database) -> None:
    """It goes on, and the system has none of it: it is asked again."""
    rig = await rig_on(database).activate()
    refused = Rejected(code="type", message="unknown")
    rig.system.on_raise = answering(refused, refused)
    await rig.sent((BASE, 91), (BASE + 9 * MINUTE, 80))
    assert [str(alert.state) for alert in await rig.work()] == ["cleared"]
    await rig.sent((BASE + 9 * MINUTE, 91))
    (alert,) = await rig.work()
    assert (alert.state, alert.raised_at, alert.error) == (AlertState.FAILED, None, "type: unknown")
    await rig.sent((BASE + 10 * MINUTE, 80))
    await rig.work()
    await rig.sent((BASE + 10 * MINUTE, 92))
    (alert,) = await rig.work()
    assert (alert.state, alert.remote_id) == (AlertState.RAISED, "N0")
    assert await rig.told() == ["failed", "cleared", "failed", "cleared", "raised"]


async def test_a_late_sample_withdraws_splits_and_resumes(database: Database) -> None:
    rig = await rig_on(database).activate()
    await rig.sent((BASE, 91), (BASE + 10 * MINUTE, 80))
    (alert,) = await rig.work()
    assert alert.state is AlertState.CLEARED
    await rig.sent((BASE + 5 * MINUTE, 84), (BASE + 6 * MINUTE, 95))  # it was two
    first, second = await rig.work()
    assert (first.alert, first.well_at) == (alert.alert, BASE + 5 * MINUTE)
    assert (second.opened_at, second.well_at) == (BASE + 6 * MINUTE, BASE + 10 * MINUTE)
    await rig.store(("pump-1", BASE, 70))  # a correction: the first was none
    withdrawn, second = await rig.work()
    assert (withdrawn.alert, withdrawn.why) == (alert.alert, "late_sample")
    assert second.why == "well"
    await rig.store(("pump-1", BASE + 10 * MINUTE, 92))  # and the second is not over
    _, second = await rig.work()
    assert (second.state, second.well_at, second.why) == (AlertState.RAISED, None, None)
    assert len(rig.system.raised) == len(set(references(rig.system))) == 2
    assert await rig.told() == ["raised", "cleared", "raised", "cleared", "raised"]


async def test_what_was_never_sent_is_withdrawn_in_silence(database: Database) -> None:
    rig = await rig_on(database).activate()
    await rig.execute("update connection set state = 'paused', prior_state = 'active'")
    await rig.sent((BASE, 91))
    await rig.work()
    await rig.store(("pump-1", BASE, 70))
    (alert,) = await rig.work()
    assert (alert.state, alert.why, alert.remote_id) == (AlertState.CLEARED, "late_sample", None)
    await rig.execute("update connection set state = 'active', prior_state = null")
    await rig.work()
    assert not rig.system.raised and not await rig.told()


async def test_a_backlog_in_any_order_gives_what_the_ordered_log_gives(database: Database) -> None:
    rule = AlertRule(
        id="r",
        device="pump-*",
        metric="t",
        condition=Above(limit=90),
        lasts=3 * MINUTE,
        hold_off=10 * MINUTE,
        kind="task",
    )
    values = [95 if minute % 20 < 8 else 60 for minute in range(60)]
    rig = await rig_on(database, rule).activate()
    order = [*range(0, 60, 3), *range(2, 60, 3), *range(1, 60, 3)]
    for start in range(0, 60, 7):
        await rig.sent(*((BASE + minute * MINUTE, values[minute]) for minute in order[start : start + 7]))
        await rig.work()
    found = [a for a in await rig.work() if a.why != "late_sample"]
    minutes = [((a.since - BASE) // MINUTE, (a.opened_at - BASE) // MINUTE) for a in found]
    assert minutes == [(0, 3), (20, 23), (40, 43)]
    assert all(alert.state is AlertState.CLEARED for alert in found)
    assert len(references(rig.system)) == len(set(references(rig.system)))


async def test_a_sample_that_is_corrected_to_what_says_nothing_opens_nothing(database: Database) -> None:
    """The log never had it: what it opened is withdrawn, and what it ended goes on."""
    rig = await rig_on(database).activate()
    await rig.sent((BASE, 91), (BASE + MINUTE, 80))
    (alert,) = await rig.work()
    assert alert.state is AlertState.CLEARED
    await rig.sent((BASE + MINUTE, "fault"))
    (alert,) = await rig.work()
    assert (alert.state, alert.well_at) == (AlertState.RAISED, None)
    await rig.sent((BASE, "fault"))
    (alert,) = await rig.work()
    assert (alert.state, alert.why) == (AlertState.CLEARED, "late_sample")
    await rig.sent((BASE + 2 * MINUTE, 95))
    assert [a.why for a in await rig.work()] == ["late_sample", None]


async def test_what_says_nothing_hides_no_beginning(database: Database) -> None:
    """What is building began before a text that came in between."""
    rule = replace(HOT, lasts=10 * MINUTE)
    rig = await rig_on(database, rule).activate()
    await rig.sent((BASE, 95), (BASE + 9 * MINUTE, 95), (BASE + 12 * MINUTE, "off"), (BASE + 14 * MINUTE, 80))
    assert not await rig.work()
    await rig.sent((BASE + 13 * MINUTE, 95))
    (alert,) = await rig.work()
    assert (alert.since, alert.opened_at) == (BASE, BASE + 13 * MINUTE)


@pytest.mark.parametrize("seed", range(4))
async def test_devices_in_any_order_with_values_of_any_kind_give_what_the_ordered_log_gives(
    database: Database, seed: int
) -> None:
    """Each device has a log of its own, in which some values say nothing, or are corrected to or from that."""
    chance = random.Random(seed)
    condition = chance.choice([Above(limit=90), Changes(by=10, within=3 * MINUTE, rises=True)])
    rule = replace(
        HOT,
        condition=condition,
        lasts=chance.choice([0, 2, 4]) * MINUTE,
        hold_off=chance.choice([0, 0, 5]) * MINUTE,
    )
    rig = await rig_on(database, rule).activate()
    await rig.execute("update connection set state = 'paused', prior_state = 'active'")
    kinds: tuple[Value, ...] = (95, 95, 80, 80, "off", True, 1e200)
    logs: dict[str, dict[datetime, Value]] = {}
    waiting: list[tuple[str, datetime, Value]] = []
    for number in range(60):
        device = f"d-{number}"
        times = [BASE + minute * MINUTE for minute in sorted(chance.sample(range(20), 9))]
        log = logs[device] = {at: chance.choice(kinds) for at in times}
        order = [(device, at, log[at]) for at in times]
        if number % 3:
            chance.shuffle(order)
        for at in chance.sample(times, 3):  # a wrong value before the right one
            place = next(i for i, one in enumerate(order) if one[1] == at)
            order.insert(chance.randint(0, place), (device, at, chance.choice(kinds)))
        waiting += order
    parts = [[one] for one in waiting]
    by_device: dict[str, list[tuple[str, datetime, Value]]] = {}
    for (one,) in parts:
        by_device.setdefault(one[0], []).append(one)
    while any(by_device.values()):
        part: dict[tuple[str, datetime], tuple[str, datetime, Value]] = {}
        for left in by_device.values():
            for one in left[: chance.randint(0, 4)]:
                if (one[0], one[1]) in part:
                    break
                part[one[0], one[1]] = left.pop(0)
        if part:
            await rig.store(*part.values())
        await rig.work()
    found: dict[str, list[tuple[int, int, int | None]]] = {device: [] for device in logs}
    for alert in await rig.held():
        if alert.why != "late_sample":
            well = None if alert.well_at is None else to_microseconds(alert.well_at)
            found[alert.device].append((to_microseconds(alert.since), to_microseconds(alert.opened_at), well))
    wanted = {
        device: law(
            rule,
            {
                to_microseconds(at): value
                for at, value in log.items()
                if observed(rule, {"t": value}) is not None
            },
        )
        for device, log in logs.items()
    }
    assert found == wanted
    assert any(wanted.values())


async def test_a_device_that_was_taken_for_gone_meanwhile_is_judged_anew(database: Database) -> None:
    """Its alert ended between the two looks of the room that judged it, and the state was written after."""
    rig = await rig_on(database).activate()
    await rig.sent((BASE, 91))
    (alert,) = await rig.work()
    await rig.execute("update alert set well_at = now(), why = 'device_gone'")
    await rig.sent((BASE + MINUTE, 95))
    assert [a.alert == alert.alert for a in await rig.work()] == [True, False]


async def test_what_was_measured_before_the_rule_began_says_nothing(database: Database) -> None:
    rig = await rig_on(database).activate()
    await rig.execute("update alert_rule set begun_at = $1", BASE + MINUTE)
    await rig.sent((BASE, 99), (BASE + 2 * MINUTE, 50))
    await rig.work()
    await rig.sent((BASE + timedelta(seconds=30), 99))
    assert not await rig.work()


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        (replace(HOT, condition=Equals(value="fault")), ("ok", "fault")),
        (replace(HOT, condition=Equals(value=True)), (False, True)),
        (replace(HOT, condition=Changes(by=5, within=5 * MINUTE, rises=True)), (1, 6)),
        (replace(HOT, condition=Changes(by=5, within=5 * MINUTE, rises=False)), (9, 3)),
    ],
    ids=["text", "boolean", "rise", "fall"],
)
async def test_every_condition_opens(database: Database, rule: AlertRule, values: tuple[object, ...]) -> None:
    rig = await rig_on(database, rule).activate()
    for minute, value in enumerate(values):
        await rig.sent((BASE + minute * MINUTE, value))  # type: ignore[arg-type]
        await rig.work()
    (alert,) = await rig.held()
    assert alert.opened_at == BASE + MINUTE


async def test_values_that_mean_nothing_to_a_rule_end_nothing(database: Database) -> None:
    rig = await rig_on(database).activate()
    await rig.sent((BASE, "hot"), (BASE + MINUTE, True), (BASE + 2 * MINUTE, 1e200), (BASE + 3 * MINUTE, 91))
    (alert,) = await rig.work()
    assert alert.opened_at == BASE + 3 * MINUTE


# Silence


async def test_silence_is_looked_at_when_it_is_due_and_only_while_somebody_listens(
    database: Database,
) -> None:
    silent = AlertRule(id="silent", device="*", metric=None, condition=Silent(after=60 * MINUTE), kind="task")
    rig = await rig_on(database, silent).activate()
    await rig.sent((BASE, 1))
    await rig.work()

    async def pass_by(minutes: int) -> None:
        await rig.execute(
            "update alert_judgement set heard_at = heard_at - $1::interval, due_at = due_at - $1::interval",
            minutes * MINUTE,
        )

    await pass_by(61)
    assert not await rig.work()  # nobody has ever listened
    await judgements.listen(database)
    await pass_by(1)
    assert not await rig.work()  # and now not for long enough
    await rig.execute("update listening set since = since - interval '2 hours'")
    await pass_by(61)
    (alert,) = await rig.work()
    assert (alert.state, alert.title) == (AlertState.RAISED, "pump-1 is silent")
    assert (await rig.rows("select due_at from alert_judgement"))[0]["due_at"] is None
    await rig.sent((BASE + MINUTE, 1))
    (alert,) = await rig.work()
    assert (alert.state, alert.why) == (AlertState.CLEARED, "well")
    assert (await rig.rows("select due_at from alert_judgement"))[0]["due_at"] is not None


async def test_a_device_whose_clock_is_behind_is_heard(database: Database) -> None:
    """Silence is of what is received: also of samples that are older than the rule."""
    silent = AlertRule(id="silent", device="*", metric="t", condition=Silent(after=60 * MINUTE), kind="task")
    rig = await rig_on(database).activate()
    await rig.sent((BASE, 1))
    await rig.work()
    await rig.begin(silent)
    await rig.execute("update alert_rule set begun_at = now()")
    await judgements.listen(database)
    await rig.execute("update listening set since = since - interval '3 hours'")
    past = "update alert_judgement set heard_at = heard_at - $1::interval, due_at = now()"
    await rig.execute(past, 61 * MINUTE)
    await rig.sent((BASE + MINUTE, 1))
    assert not await rig.work()
    await rig.execute(past, 61 * MINUTE)
    await rig.store(("pump-1", BASE + 2 * MINUTE, 1), metric="other")
    (alert,) = await rig.work()
    assert alert.state is AlertState.RAISED, "of another metric it is silent all the same"
    await rig.sent((BASE + 3 * MINUTE, 1))
    (alert,) = await rig.work()
    assert (alert.state, alert.why) == (AlertState.CLEARED, "well")


async def test_nothing_is_silent_while_its_customer_is_over_a_quota(database: Database) -> None:
    """What it sent may be among what was refused."""
    silent = AlertRule(id="silent", device="*", metric=None, condition=Silent(after=60 * MINUTE), kind="task")
    rig = await rig_on(database, silent).activate()
    await rig.sent((BASE, 1))
    await rig.work()
    await judgements.listen(database)
    await rig.execute("update listening set since = since - interval '3 hours'")
    await rig.execute("update alert_judgement set heard_at = heard_at - $1::interval", 120 * MINUTE)
    over = [Excess(customer="acme", kind=QuotaKind.BYTES, allowed=1.0, dropped=1)]
    async with database.transaction() as connection:
        await quotas.note(connection, over)

    async def looked() -> list[Alert]:
        await rig.execute("update alert_judgement set due_at = now()")
        return await rig.work()

    assert not await looked()
    await rig.execute("update quota_excess set ended_at = now() - interval '59 minutes'")
    assert not await looked()
    await rig.execute("update quota_excess set ended_at = now() - interval '61 minutes'")
    (alert,) = await looked()
    assert alert.state == AlertState.RAISED


async def test_a_device_that_sends_is_not_written_to_the_index_of_silence(database: Database) -> None:
    silent = AlertRule(id="silent", device="*", metric=None, condition=Silent(after=60 * MINUTE), kind="task")
    rig = await rig_on(database, silent).activate()
    await rig.sent((BASE, 1))
    await rig.work()
    (before,) = await rig.rows("select due_at from alert_judgement")
    await rig.sent((BASE + MINUTE, 1))
    await rig.work()
    (after,) = await rig.rows("select due_at from alert_judgement")
    assert before == after


async def test_devices_that_are_known_are_expected_from_the_rule_on(database: Database) -> None:
    rig = await rig_on(database).activate()
    await rig.sent((BASE, 1))
    await rig.work()
    await rig.begin(AlertRule(id="s", device="*", metric=None, condition=Silent(after=MINUTE), kind="task"))
    (waiting,) = await rig.rows("select device_id, due_at is not null as is_due from alert_judgement")
    assert waiting == {"device_id": "pump-1", "is_due": True}


# What ends an alert beside its condition


async def test_a_rule_that_is_removed_or_judges_otherwise_leaves_nothing_open(database: Database) -> None:
    other = replace(HOT, id="other")
    rig = await rig_on(database, HOT, other).activate()
    await rig.sent((BASE, 99))
    await rig.work()
    await rig.begin(replace(HOT, title="only words"), other)
    assert await rig.states() == ["raised", "raised"]
    await rig.begin(replace(HOT, condition=Above(limit=95)))
    found = {alert.rule: alert for alert in await rig.work()}
    assert (found["hot"].state, found["hot"].why) == (AlertState.CLEARED, "rule_changed")
    assert (found["other"].state, found["other"].why) == (AlertState.CLEARED, "rule_removed")
    assert len(rig.system.notes) == 2
    await rig.sent((BASE + MINUTE, 99))
    assert [str(alert.state) for alert in await rig.work()] == ["cleared", "cleared", "raised"]


@pytest.mark.parametrize("answer", [None, OutcomeUnknown("cut"), Rejected(code="x", message="y")])
async def test_a_connection_that_is_disconnected_leaves_nothing_open(
    database: Database, answer: Outcome | ConnectorError | None
) -> None:
    rig = await rig_on(database).activate()
    if answer is not None:
        rig.system.on_raise = answering(answer)
    await rig.sent((BASE, 99))
    await rig.work()
    await rig.execute("update connection set state = 'disconnecting', probe_at = now()")
    engine = rig.engine
    (due,) = await engine.lifecycle._due(10)
    await engine.lifecycle._ending.drain(due)
    (alert,) = await rig.held()
    assert (alert.state, alert.why, alert.due_at) == (AlertState.CLEARED, "disconnected", None)
    assert (await rig.told())[-1] == "cleared"
    assert not await rig.rows("select from alert_stream") and not await rig.rows(
        "select from alert_judgement"
    )


async def test_a_device_that_is_gone_leaves_nothing_open_and_may_come_back(database: Database) -> None:
    rig = await rig_on(database).activate()
    await rig.sent((BASE, 99))
    await rig.work()
    await upkeep(database)
    assert await rig.states() == ["raised"]
    await rig.execute("update alert_judgement set heard_at = heard_at - interval '31 days'")
    await upkeep(database)
    (alert,) = await rig.work()
    assert (alert.state, alert.why) == (AlertState.CLEARED, "device_gone")
    await rig.sent((BASE + MINUTE, 99))
    assert [str(a.state) for a in await rig.work()] == ["cleared", "raised"]


# Replicas


async def test_a_replica_that_lost_its_lease_changes_nothing(database: Database) -> None:
    rig = await rig_on(database).activate()
    await rig.sent((BASE, 99))
    old = await rig.claim_alerts()
    await rig.execute("update alert_stream set lease_until = now() - interval '1 second'")
    await rig.claim_alerts(owner="replica-b")
    with pytest.raises(LeaseLost):
        await rig.alert_runner().run(old, rig.link)
    assert not await rig.held() and not rig.system.raised


async def test_a_replica_that_stands_still_behind_its_proof_raises_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await rig_on(database).activate()
    await rig.sent((BASE, 99))
    prove, stood = alert_streams.prove, 0.0

    async def proved(connection: Connection, claim: AlertClaim) -> None:
        nonlocal stood
        await prove(connection, claim)
        stood += 3_600.0

    monkeypatch.setattr(alert_streams, "prove", proved)
    monkeypatch.setattr(call, "clock", SimpleNamespace(monotonic=lambda: clock.monotonic() + stood))
    with pytest.raises(LeaseLost, match="may be another replica's by now"):
        await rig.alert_runner().run(await rig.claim_alerts(), rig.link)
    assert await rig.states() == ["raising"] and not rig.system.looked_up
    monkeypatch.undo()
    (alert,) = await rig.work()
    assert alert.state is AlertState.RAISED and references(rig.system) == [alert.alert]


async def test_a_lease_that_goes_in_the_call_leaves_the_alert_to_the_successor(database: Database) -> None:
    rig = await rig_on(database).activate()
    entered, going = asyncio.Event(), asyncio.Event()

    async def slow(event: EventToRaise) -> Outcome | None:
        rig.system.take_event(event)
        entered.set()
        await going.wait()
        return Accepted(remote_id="N0")

    rig.system.on_raise = slow
    await rig.sent((BASE, 99))
    first = asyncio.create_task(rig.alert_runner().run(await rig.claim_alerts(), rig.link))
    await entered.wait()
    await rig.execute("update alert_stream set lease_until = now() - interval '1 second'")
    other = await rig.claim_alerts(owner="replica-b")
    going.set()
    with pytest.raises(LeaseLost):
        await first
    assert await rig.states() == ["raising"]
    rig.system.on_raise = None
    await rig.alert_runner().run(other, rig.link)
    (alert,) = await rig.held()
    assert alert.state is AlertState.RAISED and references(rig.system) == [alert.alert]


async def test_a_fault_of_a_connector_is_contained_shown_and_tried_again(database: Database) -> None:
    rig = await rig_on(database).activate()

    async def broken(event: EventToRaise) -> Outcome | None:
        raise ZeroDivisionError

    rig.system.on_raise = broken
    await rig.sent((BASE, 99))
    engine = rig.engine
    engine.alerts.serve({rig.name: rig.link})
    task = asyncio.create_task(engine.alerts.run())
    try:
        async with patient(20):
            while not await rig.rows("select from connection_trouble where part = 'alert'"):
                await asyncio.sleep(0.02)
            rig.system.on_raise = None
            while await rig.states() != ["raised"]:
                await rig.execute("update alert_stream set next_run_at = now(), calls_at = now()")
                await rig.execute("update alert set due_at = now() where due_at is not null")
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert len(rig.system.raised) == 1


async def test_an_idle_connection_costs_no_look_at_its_devices(database: Database) -> None:
    """A run of 2,000 devices of which nothing is new reads none of them."""
    rig = await rig_on(database).activate()
    await rig.store(*((f"d-{number}", BASE, 1) for number in range(2000)))
    await rig.work()

    async def reads() -> int:
        await rig.execute("select pg_stat_force_next_flush()")
        (row,) = await rig.rows(
            "select coalesce(sum(idx_tup_fetch + seq_tup_read), 0)::bigint as read from pg_stat_user_tables "
            "where relname in ('alert_judgement', 'alert')"
        )
        return int(row["read"])

    before = await reads()
    await rig.work()
    assert await reads() - before < 10


async def test_only_who_has_something_to_do_is_worked(database: Database) -> None:
    silent = AlertRule(
        id="silent", device="*", metric=None, condition=Silent(after=timedelta(hours=1)), kind="task"
    )
    rig = await rig_on(database, HOT, silent).activate()
    assert not await rig.claimed_alerts()
    await rig.sent((BASE, 99))
    assert [str(alert.state) for alert in await rig.work()] == ["raised"]
    assert not await rig.claimed_alerts()
    await rig.record("N0", "open")
    assert await rig.claimed_alerts()
    await rig.work()
    assert not await rig.claimed_alerts()
    await rig.execute("update alert_judgement set due_at = now() where due_at is not null")
    assert await rig.claimed_alerts()
    await rig.work()
    assert not await rig.claimed_alerts()
    await rig.execute("update alert set due_at = now()")
    assert await rig.claimed_alerts()
    await rig.execute("update connection set state = 'paused', prior_state = 'active'")
    assert not await rig.claimed_alerts(), "the system may not be called"
    await rig.sent((BASE + MINUTE, 98))
    assert await rig.claimed_alerts(), "and it is judged all the same"


async def test_a_record_that_was_there_before_its_alert_was_raised_is_seen(database: Database) -> None:
    """A page may have brought it, and been looked at, between the call and its answer."""
    rig = await rig_on(database).activate()
    seen: list[str] = []

    async def read_meanwhile(event: EventToRaise) -> Outcome | None:
        await rig.record("4711", "acknowledged", reference=event.reference)
        seen.append(event.reference)
        raise OutcomeUnknown("cut")

    rig.system.on_raise = read_meanwhile
    await rig.sent((BASE, 99))
    await rig.work()
    rig.system.on_raise = answering(Accepted(remote_id="N0"))
    await rig.work()
    assert len(seen) == 1
    assert [str(alert.state) for alert in await rig.work()] == ["acknowledged"]
