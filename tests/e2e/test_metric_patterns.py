"""From a device's message to a row of the table, in the unit that the system is told: a pattern of metrics, and a
metric that appears while the gateway runs.
"""

from __future__ import annotations

from pathlib import Path

import aiomqtt

from benchmarks.daemon import Daemon, postgres_connection
from benchmarks.servers import Mosquitto, wait_until
from gateway.store.pool import Database

METERS = [
    {"device": "oven-*", "metric": "temp*", "meter": "{device}/{metric}", "from": "degF", "to": "CEL", "unit": "°C", "reduce": "each"},
    {"device": "*", "metric": "*", "meter": "{device}/{metric}", "reduce": "each"},
]  # fmt: skip


async def test_a_message_becomes_rows_in_another_unit_and_a_new_metric_too(
    tmp_path: Path, mosquitto: Mosquitto, dsn: str, database: Database
) -> None:
    daemon = Daemon(
        tmp_path,
        broker_url=mosquitto.url,
        dsn=dsn,
        connections=[postgres_connection("acme-sink", "acme", dsn, METERS)],
        telemetry={"sources": [{"topic": "{customer}/devices/{device}/telemetry"}]},
    )
    daemon.start()
    try:
        await daemon.ready()

        async def rows() -> dict[str, tuple[object, object]]:
            async with database.connection() as connection:
                if not await connection.fetchval("select to_regclass('fieldgate_reading') is not null"):
                    return {}
                found = await connection.fetch("select meter, value, unit from fieldgate_reading")
            return {row["meter"]: (row["value"], row["unit"]) for row in found}

        async with aiomqtt.Client("127.0.0.1", mosquitto.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            topic = "acme/devices/oven-1/telemetry"
            await client.publish(topic, b'{"temp_f": 212, "door": 0.5}', qos=1)
            wanted: dict[str, tuple[object, object]] = {
                "oven-1/temp_f": (100.0, "°C"),
                "oven-1/door": (0.5, None),
            }

            async def are_there() -> bool:
                return await rows() == wanted

            await wait_until(are_there, seconds=60, what="the readings of what was sent first")
            await client.publish(topic, b'{"temp_grid": -40, "load [kg]": 7}', qos=1)
            wanted |= {"oven-1/temp_grid": (-40.0, "°C"), "oven-1/load [kg]": (7.0, None)}
            await wait_until(are_there, seconds=60, what="the readings of metrics that appeared")
    finally:
        await daemon.kill()
