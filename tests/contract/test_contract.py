"""One suite for every connector: what the engine counts on. A harness lists the rules that its system is
exempt from; the test's id says so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from importlib.resources import files

import pytest
import yaml

from connectors.registry import SYSTEMS
from gateway.model.connector import ConnectorSettings
from gateway.model.errors import BadConfiguration, ConnectorError, RateLimited
from gateway.model.outcome import Accepted, Duplicate, Rejected
from gateway.model.reading import Batch, make_batch
from gateway.model.sample import Value
from tests.contract.harness import (
    CONNECTION,
    FAULTS,
    RETRY_AFTER_SECONDS,
    WORDS,
    Calls,
    Harness,
    reading,
    recent,
)
from tests.contract.harnesses import HARNESSES
from tests.contract.sap_harness import EccHarness, need_node


def label(harness: type[Harness]) -> str:
    """The system, and which of its configurations where there are several."""
    return f"{harness.system}-{harness.variant}" if hasattr(harness, "variant") else harness.system


def cases(rules: Iterable[str]) -> list[object]:
    """(harness, rule) with the id `system-rule`, or `system-rule-exempt`, skipped for
    the harness's reason.
    """
    parameters: list[object] = []
    for harness in HARNESSES:
        for rule in rules:
            reason = harness.exempt.get(rule)
            marks = [pytest.mark.skip(reason=f"exempt: {reason}")] if reason else []
            name = f"{label(harness)}-{rule}" + (f"-exempt: {reason}" if reason else "")
            parameters.append(pytest.param(harness, rule, marks=marks, id=name))
    return parameters


each_connector = pytest.mark.parametrize("harness", HARNESSES, indirect=True, ids=lambda kind: label(kind))


@pytest.fixture
async def harness(request: pytest.FixtureRequest, contract_dsn: str) -> AsyncIterator[Harness]:
    if request.param is EccHarness:
        need_node(request)
    started: Harness = request.param()
    async with started.running(contract_dsn):
        yield started


def batch_of(harness: Harness, count: int) -> Batch:
    meters = 50
    return make_batch(
        CONNECTION,
        [
            reading(harness.meter(number % meters), recent(number // meters), float(number))
            for number in range(count)
        ],
    )


def expected(batch: Batch) -> dict[tuple[str, object], list[object]]:
    return {(item.meter, item.window_start): [item.value] for item in batch.readings}


@pytest.mark.parametrize(("harness", "fault"), cases(FAULTS), indirect=["harness"])
async def test_a_fault_becomes_exactly_its_error(harness: Harness, fault: str) -> None:
    async with harness.failing(fault) as connector:
        with pytest.raises(ConnectorError) as caught:
            await connector.push(batch_of(harness, 4))
    assert type(caught.value) is FAULTS[fault], repr(caught.value)
    assert str(caught.value).isprintable()
    assert WORDS.get(fault, "") in str(caught.value)
    if isinstance(caught.value, RateLimited):
        assert caught.value.retry_after == RETRY_AFTER_SECONDS


@each_connector
async def test_a_batch_is_accepted_once_with_its_values(harness: Harness) -> None:
    connector = harness.connector()
    batch = batch_of(harness, 20)
    outcomes = await connector.push(batch)
    assert set(map(type, outcomes)) == {Accepted}
    assert await harness.held() == expected(batch)
    await connector.close()


@each_connector
async def test_a_batch_at_the_limit_is_taken(harness: Harness) -> None:
    connector = harness.connector()
    batch = batch_of(harness, connector.capabilities.max_items)
    assert Counter(map(type, await connector.push(batch))) == {Accepted: len(batch.readings)}
    assert await harness.held() == expected(batch)
    await connector.close()


@each_connector
async def test_an_empty_batch_calls_nobody(harness: Harness) -> None:
    calls = Calls()
    connector = harness.connector(calls=calls)
    assert await connector.push(make_batch(CONNECTION, [])) == []
    assert await connector.find([]) == {}
    assert calls.seen == []
    await connector.close()


@each_connector
async def test_one_refused_reading_does_not_keep_the_others_back(harness: Harness) -> None:
    connector = harness.connector()
    good = batch_of(harness, 60)
    batch = make_batch(CONNECTION, [*good.readings, harness.refused(recent())])
    outcomes = dict(zip((item.key for item in batch.readings), await connector.push(batch), strict=True))
    refusal = outcomes.pop(harness.refused(recent()).key)
    assert isinstance(refusal, Rejected)
    assert refusal.code
    assert refusal.message
    assert set(map(type, outcomes.values())) == {Accepted}
    assert await harness.held() == expected(good)
    await connector.close()


@each_connector
async def test_many_refused_readings_are_found_with_bounded_calls(harness: Harness) -> None:
    calls = Calls()
    connector = harness.connector(calls=calls)
    good = batch_of(harness, 100)
    batch = make_batch(
        CONNECTION, [*good.readings, *(harness.refused(recent(second)) for second in range(20))]
    )
    pushes = 0
    outcomes = await connector.push(batch)
    while any(not isinstance(outcome, Accepted | Rejected) for outcome in outcomes):
        pushes += 1
        assert pushes < 10
        rest = [
            item
            for item, outcome in zip(batch.readings, outcomes, strict=True)
            if not isinstance(outcome, Accepted | Rejected)
        ]
        batch = make_batch(CONNECTION, rest)
        outcomes = await connector.push(batch)
    assert await harness.held() == expected(good)
    assert len(calls.seen) <= (120 if connector.capabilities.push == "single" else 99)
    await connector.close()


@pytest.mark.parametrize(("harness", "rule"), cases(["repeat_is_duplicate"]), indirect=["harness"])
async def test_a_repeat_is_a_duplicate(harness: Harness, rule: str) -> None:
    connector = harness.connector()
    batch = batch_of(harness, 5)
    await connector.push(batch)
    assert [type(outcome) for outcome in await connector.push(batch)] == [Duplicate] * 5
    assert await harness.held() == expected(batch)
    await connector.close()


@pytest.mark.parametrize(("harness", "rule"), cases(["change_is_accepted"]), indirect=["harness"])
async def test_a_change_is_accepted(harness: Harness, rule: str) -> None:
    connector = harness.connector()
    batch = batch_of(harness, 5)
    await connector.push(batch)
    changed = reading(batch.readings[0].meter, batch.readings[0].window_start, 99.5)
    assert [type(outcome) for outcome in await connector.push(make_batch(CONNECTION, [changed]))] == [
        Accepted
    ]
    assert (await harness.held())[changed.meter, changed.window_start] == [99.5]
    await connector.close()


@each_connector
async def test_find_returns_what_is_held_and_nothing_else(harness: Harness) -> None:
    connector = harness.connector()
    batch = batch_of(harness, 100)
    await connector.push(batch)
    found = await connector.find(batch.readings)
    assert {key: remote.value for key, remote in found.items()} == {
        item.key: item.value for item in batch.readings
    }
    assert {key: remote.at for key, remote in found.items()} == {
        item.key: item.window_start for item in batch.readings
    }
    absent = [reading(harness.meter(0), recent(500), 1.0), reading(harness.meter(77), recent(), 1.0)]
    assert await connector.find(absent) == {}
    await connector.close()


@each_connector
async def test_a_stale_value_at_the_same_time_is_not_taken_for_ours(harness: Harness) -> None:
    connector = harness.connector()
    await connector.push(make_batch(CONNECTION, [reading(harness.meter(1), recent(), 1.0)]))
    wanted = reading(harness.meter(1), recent(), 2.0)
    found = await connector.find([wanted])
    assert wanted.key not in found or found[wanted.key].value == 1.0
    await connector.close()


HOSTILE: tuple[Value, ...] = (
    math.nan,
    math.inf,
    -math.inf,
    10**400,
    -(2**70),
    2**53,
    1e308,
    5e-324,
    -0.0,
    True,
    False,
    "",
    "a\0b",
    "\ud800",
    "'; drop table x; --",
    "x" * 1024,
)


@each_connector
async def test_hostile_values_get_an_outcome_each_and_hurt_nobody(harness: Harness) -> None:
    connector = harness.connector()
    hostile = [reading(harness.meter(number), recent(), value) for number, value in enumerate(HOSTILE)]
    names = ["a\0b", "'; drop table x; --", "", "../../etc", "９９９", "x" * 3000]
    hostile += [reading(name, recent(), 1.0) for name in names]
    good = reading(harness.meter(49), recent(), 42.0)
    batch = Batch(id="hostile", connection=CONNECTION, readings=(*hostile, good))
    outcomes = await connector.push(batch)
    assert len(outcomes) == len(batch.readings)
    assert isinstance(outcomes[-1], Accepted)
    assert all(isinstance(outcome, Accepted | Rejected) for outcome in outcomes)
    by_value = dict(zip(map(repr, HOSTILE), outcomes, strict=False))
    for impossible in ("nan", "inf", "-inf", repr(10**400), repr("a\0b"), repr("\ud800")):
        assert isinstance(by_value[impossible], Rejected), impossible
    assert (await harness.held())[good.meter, good.window_start] == [42.0]
    await connector.close()


@each_connector
async def test_a_probe_succeeds_leaves_nothing_and_is_counted(harness: Harness) -> None:
    calls = Calls()
    connector = harness.connector(calls=calls)
    await connector.probe()
    assert await harness.held() == {}
    assert [operation for operation, _ in calls.seen] == ["probe"]
    assert calls.seen[0][1] in ("ok", "2xx")
    await connector.close()


@each_connector
async def test_calls_that_fail_are_counted_too(harness: Harness) -> None:
    calls = Calls()
    connector = harness.connector(calls=calls)
    await connector.push(batch_of(harness, 1))
    assert calls.seen[-1][0] == "push"
    assert calls.seen[-1][1] in ("ok", "2xx")
    await connector.close()


@each_connector
async def test_close_can_be_repeated(harness: Harness) -> None:
    connector = harness.connector()
    await connector.probe()
    await connector.close()
    await connector.close()


@each_connector
def test_unknown_settings_are_named_and_no_value_is_repeated(harness: Harness) -> None:
    system = SYSTEMS[harness.system]
    with pytest.raises(BadConfiguration) as caught:
        system.build(
            ConnectorSettings(
                connection="c",
                hosting="cloud",
                settings={"no_such": "hidden-value"},
                credentials={},
                timeout_seconds=1,
            )
        )
    assert "no_such" in str(caught.value)
    assert "hidden-value" not in str(caught.value)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_manifest_is_consistent(name: str) -> None:
    system = SYSTEMS[name]
    capabilities = system.manifest.capabilities
    assert system.manifest.system == name
    assert {harness.system for harness in HARNESSES} == set(SYSTEMS), "every connector has a harness"
    assert capabilities.dedup != "client_ref" or capabilities.readback != "none"
    assert capabilities.readback != "last_only" or capabilities.order == "per_meter_ascending"
    assert set(system.credentials_model.model_fields) or capabilities.auth == ("none",)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_sample_is_accepted_by_the_settings(name: str) -> None:
    folder = files(f"connectors.{name}")
    (sample,) = yaml.safe_load(folder.joinpath("sample.yaml").read_text("utf-8"))["connections"]
    system = SYSTEMS[name]
    assert sample["system"] == name
    assert sample["hosting"] in system.manifest.hosting
    system.settings_model.model_validate(sample.get("settings", {}))
    credentials = dict(sample["credentials"])
    assert credentials.pop("type") in system.manifest.capabilities.auth
    assert set(credentials) <= set(system.credentials_model.model_fields)
    assert all(str(value).startswith("${") for value in credentials.values()), "a sample holds no secret"
    assert folder.joinpath("README.md").read_text("utf-8").startswith("# ")
