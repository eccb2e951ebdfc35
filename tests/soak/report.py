"""The end of a seed: waits until nothing is pending, compares, and says what is wrong, or what is stuck and
why.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import asyncpg

from benchmarks.servers import wait_until
from tests.soak.faults import Faults
from tests.soak.load import Fleet
from tests.soak.oracle import Device, Expected, Ledger, Value, Verdict, expect, judge
from tests.soak.paused import judge_paused
from tests.soak.shape import Link
from tests.soak.stage import AWAY, Stage
from tests.soak.workplace import PLANT, Workplace

SHOWN = 12
PAUSE_SECONDS = 3.0
"""What was on its way as a pause was asked for: an answer that is waited for, `sync.push_timeout`, and what is
read of it.
"""

PENDING = """
select (select count(*) from due_window) as windows, (select count(*) from push_intent) as intents,
       (select count(*) from stream where phase = 'initial' and state <> 'done') as initial,
       (select count(*) from connection where state not in ('active', 'degraded')) as away,
       (select count(*) from stream s join connection c using (connection_id)
        where s.phase = 'incremental' and exists (
            select from telemetry t where t.customer_id = c.customer_id and t.revision > s.watermark)) as unscanned
"""
STUCK = {
    "connections": "select connection_id, state, reason, since from connection order by 1",
    "streams": (
        """select s.*, s.lease_until > now() as is_leased, now() as asked_at, l.position as log_position
        from stream s join connection c using (connection_id) left join customer_log l using (customer_id) order by connection_id, phase"""
    ),
    "due": (
        """select connection_id, phase, split_part(meter, '/', 2) as rule, count(*), min(window_start) as first, max(window_start) as last,
        count(*) filter (where closes_at <= now()) as closed, max(attempts) as attempts from due_window group by 1, 2, 3 order by 4 desc limit 30"""
    ),
    "due_sample": "select * from due_window order by closes_at limit 10",
    "intents": (
        "select connection_id, phase, batch_id, sent_at, left(readings::text, 400) as readings from"
        " push_intent"
    ),
    "waiting_meters": (
        "select connection_id, meter, retry_at from meter_mapping where retry_at > now() limit 10"
    ),
    "inbound": "select *, now() as asked_at from inbound_stream",
    "published": "select * from record_publication",
    "alerts": "select * from alert where state <> 'cleared' or due_at is not null limit 20",
    "judged": "select * from alert_stream",
    "breakers": "select * from breaker",
    "leases": "select * from lease",
    "sessions": (
        """select pid, state, wait_event_type, wait_event, xact_start, now() - xact_start as age, left(query, 160) as query
        from pg_stat_activity where datname = current_database() and xact_start is not null"""
    ),
    "telemetry": "select count(*), max(received_at) as newest from telemetry",
    "runs": (
        "select connection_id, phase, started_at, outcome, delivered, modified, retried, error from sync_run"
        " order by run_id desc limit 15"
    ),
}


@dataclass(slots=True, kw_only=True)
class Report:
    """Of one seed; what is written as JSON."""

    seed: int
    replicas: int
    seconds: float
    verdict: str = ""
    acknowledged: int = 0
    samples: int = 0
    windows: int = 0
    faults_done: dict[str, int] = field(default_factory=dict)
    faults_skipped: dict[str, int] = field(default_factory=dict)
    receivers: dict[str, dict[str, int]] = field(default_factory=dict)
    drain_seconds: float = 0.0
    lost: int = 0
    duplicated: int = 0
    wrong: int = 0
    invented: int = 0
    silent: int = 0
    dead: int = 0
    pending: int = 0
    telemetry: int = 0
    deadlocks: int = 0
    ended: int = 0
    unmatched: int = 0
    records: int = 0
    alerts: int = 0
    troubles: int = 0
    paused: int = 0
    repeats: int = 0
    workplace: dict[str, int] = field(default_factory=dict)
    resources: dict[str, dict[str, float | None]] = field(default_factory=dict)
    crashes: dict[str, int] = field(default_factory=dict)
    findings: dict[str, list[str]] = field(default_factory=dict)
    """By connection and kind, the first of each."""
    stuck: dict[str, Any] = field(default_factory=dict)
    diary: list[str] = field(default_factory=list)

    @property
    def fault_count(self) -> int:
        """What may not be: zero, or the seed has failed."""
        return (
            self.lost + self.duplicated + self.wrong + self.invented + self.silent + self.dead + self.pending
            + self.telemetry + self.deadlocks + self.ended + self.unmatched + self.records + self.alerts
            + self.troubles + self.paused
        )  # fmt: skip

    def line(self) -> str:
        """For a terminal."""
        wrongs = " ".join(
            f"{name}={getattr(self, name)}"
            for name in (
                "lost",
                "duplicated",
                "wrong",
                "pending",
                "deadlocks",
                "invented",
                "silent",
                "dead",
                "telemetry",
                "ended",
                "unmatched",
                "records",
                "alerts",
                "troubles",
                "paused",
            )
        )
        done = sum(self.faults_done.values())
        return (
            f"seed {self.seed}: {self.verdict} | {self.replicas} replicas, {self.seconds:.0f} s,"
            f" {self.acknowledged} acknowledged, {self.samples} samples, {self.windows} windows, {done}"
            f" faults, drained in {self.drain_seconds:.0f} s, {self.repeats} repeats where they are allowed |"
            f" {wrongs}" + (f" | crashes {self.crashes}" if self.crashes else "")
        )

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


async def heal(stage: Stage, faults: Faults) -> None:
    """After the last fault: everything runs, nothing fails by chance, nobody is paused."""
    for cutter in stage.cutters.values():
        cutter.mode = "well"
    for receiver in stage.receivers.values():
        receiver.mode, receiver.calm = "well", True
    linked = {link.name for link in stage.shape.links}
    for name in faults.names:
        with contextlib.suppress(*AWAY):
            state = await stage.state(name)
            if state == "paused":
                status = await stage.insist(f"/v1/connections/{name}/resume")
                faults.say(f"resume {name} at the end: {status}")
            elif state not in ("active", "degraded") and name in linked:  # people see to the workplace's
                status = await stage.insist(f"/v1/connections/{name}/recheck")
                faults.say(f"{name} was {state} at the end; recheck: {status}")


async def settle(stage: Stage, fleet: Fleet, report: Report, *, seconds: float) -> None:
    """Waits until nothing is pending, twice in a row; else says what is stuck."""
    began, quiet = time.monotonic(), 0
    wanted = sum(len(samples) for samples in fleet.ledger.samples.values()) - len(fleet.ledger.refusable)
    found: dict[str, int] = {}

    async def is_quiet() -> bool:
        nonlocal quiet, found
        try:
            row = (await stage.fetch(PENDING))[0]
            stored = (await stage.fetch("select count(*) from telemetry"))[0][0]
        except AWAY:
            return False
        found = {**dict(row), "not stored": max(0, wanted - stored)}
        quiet = quiet + 1 if not any(found.values()) else 0
        return quiet >= 4

    try:
        await wait_until(is_quiet, seconds=seconds, what="nothing is pending", every=0.6)
    except TimeoutError:
        report.pending = found.get("windows", 0) + found.get("intents", 0) or 1
        report.stuck = {"pending": found, **await dump(stage)}
    report.drain_seconds = round(time.monotonic() - began, 1)


async def dump(stage: Stage) -> dict[str, Any]:
    """Why something is pending: the state of streams, windows, intents, leases and sessions."""
    made: dict[str, Any] = {}
    for name, query in STUCK.items():
        try:
            made[name] = [
                {key: _plain(value) for key, value in row.items()} for row in await stage.fetch(query)
            ]
        except AWAY as error:
            made[name] = f"{type(error).__name__}: {error}"
    made["log"] = {replica.daemon.name: replica.daemon.log[-2500:] for replica in stage.replicas}
    return made


async def compare(stage: Stage, fleet: Fleet, report: Report) -> None:
    """Every system against what was acknowledged; the telemetry table too."""
    report.acknowledged = fleet.ledger.acknowledged
    report.samples = sum(len(samples) for samples in fleet.ledger.samples.values())
    report.unmatched = fleet.unmatched
    table, twice = await _stored(stage)
    letters = await stage.fetch(
        "select topic, payload from dead_letter where kind = 'message' and reason = 'not_exact'"
    )
    for (customer, device), at in sorted(fleet.ledger.refusable - _flat(table).keys()):
        numbers = fleet.ledger.samples[customer, device][at].values()
        if any(
            letter["topic"].startswith(f"{customer}/devices/{device}/")
            and all(str(number).encode() in letter["payload"] for number in numbers)
            for letter in letters
        ):
            fleet.ledger.forget((customer, device), at)
    wrong = _differences(fleet.ledger, table, twice)
    report.telemetry = len(wrong)
    _find(report, "telemetry", wrong)
    for link in stage.shape.links:
        expected = expect(link.rules, link.customer, fleet.ledger)
        dead, before = await stage.dead_letters(link), stage.replayed.get(link.name, {})
        verdict = judge(
            expected,
            await stage.held(link),
            dead,
            once_dead=before,
            stored=expect(link.rules, link.customer, table).values if wrong else None,
            reasons={**before, **dead},
        )
        if not expected.values:
            verdict.lost.append("the oracle expects nothing at all: that cannot be")
        _add(report, link, verdict, expected)
    for name, receiver in stage.receivers.items():
        report.receivers[name] = {"requests": receiver.requests, **receiver.faults}
        _find(report, f"{name} keys", receiver.complaints)
        report.wrong += len(receiver.complaints)
    strangers = await stage.fetch(
        "select reason, detail, topic, occurrences from dead_letter where kind = 'message' and reason <>"
        " 'not_exact' limit 20"
    )
    _find(report, "messages refused", [str(dict(row)) for row in strangers])
    report.dead += len(strangers)
    deadlocks = stage.deadlocks()
    report.deadlocks = len(deadlocks)
    _find(report, "deadlocks", deadlocks)
    report.ended = len(stage.ended)
    _find(report, "daemons that ended", stage.ended)
    report.crashes = dict(stage.crashes())


async def compare_workplace(workplace: Workplace, report: Report, *, is_heard: bool) -> None:
    """Who follows records, who hears of them, and what became of alerts, against what was there. `is_heard`:
    the broker lost nothing that it had acknowledged.
    """
    followed, heard, raised = await workplace.wrong()
    _find(report, "records by cursor", followed.faults)
    missed = [] if is_heard else heard.missed
    over_mqtt = heard.faults[len(missed) :]
    _find(report, "records over MQTT", over_mqtt)
    _find(report, "alerts", raised)
    troubles = [*workplace.troubles, *workplace.source.grants.stale]
    _find(report, "workplace", troubles)
    report.records, report.alerts = len(followed.faults) + len(over_mqtt), len(raised)
    report.troubles = len(troubles)
    if (report.records or report.alerts) and not report.stuck:
        report.stuck = {"pending": "records or alerts", **await dump(workplace.stage)}
    report.workplace = {**await workplace.figures(), "not heard": len(missed)}
    report.receivers["plant"] = dict(workplace.source.faults)
    report.receivers["shop"] = {"struck": workplace.proxy.struck}


def compare_pauses(faults: Faults, report: Report) -> None:
    """Whether systems that write down their requests were left alone while their connections were paused."""
    asked = {name: receiver.asked for name, receiver in faults.stage.receivers.items()}
    asked[PLANT] = [(at, what) for at, what in faults.workplace.source.asked if not what.endswith("/token")]
    stood = [span for replica in faults.stage.replicas for span in replica.stood]
    wrong = judge_paused(faults.pauses, asked, stood, grace=PAUSE_SECONDS)
    report.paused = len(wrong)
    _find(report, "paused", wrong)


def _add(report: Report, link: Link, verdict: Verdict, expected: Expected) -> None:
    report.windows += verdict.windows
    report.repeats += verdict.repeats
    for kind in ("lost", "wrong", "duplicated", "invented", "silent", "dead"):
        found: list[str] = getattr(verdict, kind)
        setattr(report, kind, getattr(report, kind) + len(found))
        _find(report, f"{link.name} {kind}", sorted(found))


def _find(report: Report, name: str, found: Sequence[str]) -> None:
    """Notes how many there are and the first of each rule, so that none hides the others."""
    if not found:
        return
    by_rule: dict[str, list[str]] = {}
    for text in found:
        by_rule.setdefault(text.partition(" @ ")[0].rpartition("/")[2] if " @ " in text else "", []).append(
            text
        )
    counts = {rule: len(texts) for rule, texts in by_rule.items() if rule}
    head = f"{len(found)} in all, by rule: {counts}" if counts else f"{len(found)} in all"
    share = max(2, SHOWN // len(by_rule))
    report.findings[name] = [head, *(text for texts in by_rule.values() for text in texts[:share])]


async def _stored(stage: Stage) -> tuple[Ledger, int]:
    """The table of telemetry as a ledger, and how many samples it holds more than once."""
    rows = await stage.fetch(
        "select customer_id, device_id, (extract(epoch from ts) * 1000000)::bigint as at, metrics::text as"
        " metrics from telemetry"
    )
    stored = Ledger()
    for number, row in enumerate(rows):
        stored.note((row["customer_id"], row["device_id"]), row["at"], json.loads(row["metrics"]), number)
    return stored, len(rows) - len(_flat(stored))


def _flat(ledger: Ledger) -> dict[tuple[Device, int], dict[str, Value]]:
    return {
        (device, at): metrics for device, samples in ledger.samples.items() for at, metrics in samples.items()
    }


def _differences(ledger: Ledger, table: Ledger, twice: int) -> list[str]:
    acknowledged, stored = _flat(ledger), _flat(table)
    wrong = [f"lost: {key} {acknowledged[key]}" for key in acknowledged.keys() - stored.keys()]
    wrong += [f"invented: {key} {stored[key]}" for key in stored.keys() - acknowledged.keys()]
    for key in acknowledged.keys() & stored.keys():
        for metric in acknowledged[key].keys() | stored[key].keys():
            holds, right = stored[key].get(metric), acknowledged[key].get(metric)
            if holds != right:
                said = ledger.said.get((*key, metric))
                wrong.append(
                    f"differs: {key} {metric} holds {holds!r}, right is {right!r}, published were {said}"
                )
    return [*sorted(wrong), *([f"{twice} samples are stored twice"] if twice else [])]


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | str | bool | None) else str(value)


async def until_quiet(stage: Stage) -> None:
    """Waits until the database answers again."""

    async def answers() -> bool:
        with contextlib.suppress(*AWAY, asyncpg.PostgresError):
            await stage.fetch("select 1")
            return True
        return False

    await wait_until(answers, seconds=60, what="the gateway's database answers", every=0.3)


async def ready_again(stage: Stage, report: Report) -> None:
    """Waits until every replica is ready; one that is not is a finding."""
    for replica in stage.replicas:
        try:
            await replica.daemon.ready(60)
        except (TimeoutError, RuntimeError) as error:
            report.ended += 1
            stage.ended.append(f"{replica.daemon.name} is not ready after the last fault: {error}")
    await asyncio.sleep(0)
