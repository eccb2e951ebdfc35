"""Metrics of a known device that come, go or change their kind are told once, and a device that invents them
tells little.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from gateway.model.sample import Metrics
from tests.fixtures.devices_simulated import TICK, Simulation, simulation

__all__ = ["simulation"]

HOURS = 60
_SECOND = timedelta(seconds=1)


async def sends(world: Simulation, ticks: int, metrics: Metrics, device: str = "a") -> None:
    for _ in range(ticks):
        world.receive(device, world.now + TICK, metrics)
        await world.tick([])


async def told(world: Simulation) -> list[dict[str, Any]]:
    async with world.database.connection() as connection:
        rows = await connection.fetch(
            "select data from event where type = 'device.schema_changed' order by position"
        )
    return [
        {
            key: row["data"][key]
            for key in ("appeared", "vanished", "changed", "changes")
            if row["data"][key] not in ([], 0)
        }
        for row in rows
    ]


async def later(world: Simulation, seconds: int) -> None:
    """The pauses between events go by the clock of the database."""
    async with world.database.connection() as connection:
        await connection.execute(
            "update device_change set due_at = due_at - $1 * interval '1 second', told_at = told_at - $1 *"
            " interval '1 second'",
            seconds,
        )
    await world.look()


async def test_a_kind_that_changes_is_told_once(simulation: Simulation) -> None:
    await simulation.known("a")
    await sends(simulation, 90, {"t": 1.5, "on": True, "n": 3})
    await sends(simulation, 1, {"t": 2, "on": True, "n": 3.5})  # integers and fractions are numbers
    assert await told(simulation) == []
    await sends(simulation, 30, {"t": "n/a", "on": 1, "n": 3})
    assert await told(simulation) == [
        {
            "changed": [
                {"metric": "on", "from": "boolean", "to": "number"},
                {"metric": "t", "from": "number", "to": "text"},
            ],
            "changes": 2,
        }
    ]


async def test_a_metric_that_comes_is_told_once_and_a_new_device_tells_nothing(
    simulation: Simulation,
) -> None:
    await simulation.known("a", "split")
    for number in range(30):  # each metric has a topic of its own
        await sends(simulation, 1, {f"m{number}": 1}, "split")
    await sends(simulation, 60, {"t": 1})
    assert await told(simulation) == []
    await sends(simulation, 5, {"t": 1, "u": "x"})
    await sends(simulation, 5, {"t": 1})
    assert await told(simulation) == [{"appeared": ["u"], "changes": 1}]


async def test_it_is_told_once_though_the_process_starts_anew(simulation: Simulation) -> None:
    """What a process knows of metrics is gone with it; what is held is not."""
    await simulation.known("a")
    await sends(simulation, 90, {"t": 1})
    await sends(simulation, 2, {"u": 1})
    simulation.registry._known.clear()
    await sends(simulation, 2, {"t": 1, "u": 1})
    assert await told(simulation) == [{"appeared": ["u"], "changes": 1}]


async def test_a_metric_that_does_not_come_any_more_has_vanished_and_may_come_back(
    simulation: Simulation,
) -> None:
    simulation.settings = simulation.settings.model_copy(
        update={
            "telemetry": simulation.settings.telemetry.model_copy(
                update={"vanished_after": 3 * 3600 * _SECOND}
            )
        }
    )
    await simulation.known("a")
    await sends(simulation, HOURS, {"t": 1, "u": 2})
    await sends(simulation, 170, {"t": 1})
    assert await told(simulation) == []
    await sends(simulation, 60, {"t": 1})
    assert await told(simulation) == [{"vanished": ["u"], "changes": 1}]
    await sends(simulation, 60, {"t": 1, "u": 2})
    await later(simulation, 3600)
    await sends(simulation, 60, {"t": 1, "u": 2})
    assert await told(simulation) == [
        {"vanished": ["u"], "changes": 1},
        {"appeared": ["u"], "changes": 1},
    ]


async def test_a_device_that_is_silent_has_no_metric_that_vanished(simulation: Simulation) -> None:
    simulation.settings = simulation.settings.model_copy(
        update={
            "telemetry": simulation.settings.telemetry.model_copy(update={"vanished_after": 3600 * _SECOND})
        }
    )
    await simulation.known("a")
    await sends(simulation, 2 * HOURS, {"t": 1})
    for _ in range(5 * HOURS):
        await simulation.tick([])
    assert await told(simulation) == []
    assert await simulation.events() == [("silent", "a")]


async def test_a_device_that_invents_metrics_makes_few_events(simulation: Simulation) -> None:
    """And so does one that sends a number and a text in turn: at most five on the first day, when the pause
    doubles.
    """
    await simulation.known("a", "turns")
    await sends(simulation, 90, {"t": 1})
    await sends(simulation, 90, {"t": 1}, "turns")
    events = []
    for hour in range(24):
        for number in range(3):
            await sends(simulation, 1, {f"m{hour}_{number}_{part}": 1 for part in range(40)})
            await sends(simulation, 1, {"t": "x" if number % 2 else 1}, "turns")
        await later(simulation, 3600)
        events = await told(simulation)
    assert 4 <= len(events) <= 10
    assert all(len(event.get("appeared", ())) <= 20 for event in events)
    assert max(event["changes"] for event in events) == 256
    async with simulation.database.connection() as connection:
        size = await connection.fetchval("select max(pg_column_size(changes)) from device_change")
    assert size < 32_000


async def test_what_is_undone_before_it_is_told_is_not_told(simulation: Simulation) -> None:
    await simulation.known("a")
    await sends(simulation, 90, {"t": 1})
    await sends(simulation, 2, {"t": "x"})
    await sends(simulation, 2, {"t": 1})
    await sends(simulation, 2, {"t": "x"})
    await later(simulation, 3600)
    assert await told(simulation) == [
        {"changed": [{"metric": "t", "from": "number", "to": "text"}], "changes": 1},
    ]
    await sends(simulation, 2, {"t": 1})
    await later(simulation, 7200)
    assert [event["changed"][0]["to"] for event in await told(simulation)] == ["text", "number"]


async def test_an_old_value_of_another_kind_changes_nothing(simulation: Simulation) -> None:
    await simulation.known("a")
    await sends(simulation, 90, {"t": 1})
    simulation.receive("a", simulation.now + 1, {"t": "old"}, sampled=10)
    await simulation.tick([])
    assert await told(simulation) == []
