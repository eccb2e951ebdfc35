"""Whatever order samples, runs and changes of rules came in: each metric that a pattern matches has its meter and
its readings, as a plain reading of all samples gives them, and nothing else is delivered.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from datetime import datetime

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.meter_settings import MeterSettings
from gateway.model.meter import MeterRule
from gateway.settings import CreditsSettings
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import BASE, MINUTE, Rig

WINDOW = 10 * MINUTE
FAHRENHEIT = MeterSettings.model_validate(
    {"device": "d", "metric": "t", "meter": "m", "from": "degF", "to": "CEL"}
).arithmetic
_names = itertools.count()

# What a rule is, beside the code's own: device and metric as regular expressions, the meter, whether its numbers are converted.
RULES: dict[str, tuple[MeterRule, str, str, str, bool]] = {
    "all": (MeterRule(device="*", metric="*", meter="{device} {metric}", every=WINDOW), ".*", ".*", "{} {}", False),
    "some": (MeterRule(device="a?", metric="t*", meter="{metric}: {device}", every=WINDOW, arithmetic=FAHRENHEIT), "a.", "t.*", "{1}: {0}", True),
    "one": (MeterRule(device="a1", metric="?", meter="a1/{metric}", every=WINDOW), "a1", ".", "a1/{1}", False),
    "literal": (MeterRule(device="*", metric="t1", meter="{device} {metric}", every=WINDOW, arithmetic=FAHRENHEIT), ".*", "t1", "{} {}", True),
}  # fmt: skip

samples = st.dictionaries(
    st.tuples(
        st.sampled_from(["a1", "a2", "b"]), st.sampled_from(["t", "t1", "x", "[x]", "%"]), st.integers(0, 5)
    ),
    st.integers(-50, 500),
    min_size=1,
    max_size=6,
)


@dataclass(frozen=True)
class Step:
    samples: dict[tuple[str, str, int], int]
    runs: bool
    walks: bool
    rules: tuple[str, ...] | None


names = st.lists(st.sampled_from(sorted(RULES)), min_size=1, max_size=4, unique=True).map(tuple)
steps = st.lists(
    st.builds(
        Step, samples=samples, runs=st.booleans(), walks=st.booleans(), rules=st.none() | st.none() | names
    ),
    min_size=1,
    max_size=5,
)


def expected(
    rules: tuple[str, ...], held: dict[tuple[str, str, int], int]
) -> dict[tuple[str, datetime], float]:
    meters: dict[str, tuple[str, str, bool]] = {}
    feeds = sorted({(device, metric) for device, metric, _ in held})
    for name in sorted(rules, key=lambda name: name != "literal"):  # who names the metric comes first
        _, devices, metrics, template, is_converted = RULES[name]
        for device, metric in feeds:
            if re.fullmatch(devices, device) and re.fullmatch(metrics, metric):
                meters.setdefault(template.format(device, metric), (device, metric, is_converted))
    found = {}
    for meter, (device, metric, is_converted) in meters.items():
        for (whose, what, place), value in sorted(held.items()):
            if (whose, what) == (device, metric):
                start = BASE + place // 2 * WINDOW  # two samples a window, the later one counts
                found[meter, start] = (value - 32) * 5 / 9 if is_converted else float(value)
    return found


async def walk(rig: Rig) -> None:
    """What is left of the history; rules that have fed nothing yet have none."""
    waiting = "select from stream where connection_id = $1 and phase = 'initial' and state <> 'done'"
    if await rig.rows(waiting, rig.name):
        await rig.run("initial")


@given(first=names, steps=steps)
@settings(
    phases=[Phase.explicit, Phase.generate],
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_patterns_agree_with_a_plain_reading(
    database: Database, first: tuple[str, ...], steps: list[Step]
) -> None:
    await sync_capacity(database, CreditsSettings(capacity=10_000_000))
    system, name, rules = Scripted(), f"p{next(_names)}", first
    rig = Rig(
        database,
        system,
        name=name,
        customer=name,
        rules=tuple(RULES[one][0] for one in rules),
        initial_days=1,
    )
    await rig.activate()
    held: dict[tuple[str, str, int], int] = {}
    for step in steps:
        for (device, metric, place), value in step.samples.items():
            await rig.store((device, BASE + place * (WINDOW / 2), value), metric=metric)
            held[device, metric, place] = value
        if step.rules is not None:
            rules = step.rules
            await rig.change_rules(*(RULES[one][0] for one in rules))
        if step.runs:
            await rig.run()
        if step.walks:
            await walk(rig)
    await walk(rig)
    await rig.run()
    wanted, delivered = expected(rules, held), await rig.delivered()
    now = {key: value for key, value in delivered.items() if key[0] in {meter for meter, _ in wanted}}
    assert now.keys() == wanted.keys()
    differs = {key: (now[key], value) for key, value in wanted.items() if now[key] != pytest.approx(value)}
    assert differs == {}
    assert {(one.meter, one.window_start): one.value for one in system.taken} == delivered
    fed = await rig.rows("select meter from meter_mapping where connection_id = $1", rig.name)
    known = {meter for meter, _ in wanted}
    assert {row["meter"] for row in fed} - known <= {f"{device} t1" for device in ("a1", "a2", "b")}
    assert await rig.dead() == []
