"""What the daemon tells of devices, from the broker to the table: also after it was killed."""

from __future__ import annotations

from pathlib import Path

from benchmarks.servers import wait_until
from tests.fault.rig import Fleet, Rig, started


async def _told(rig: Rig, devices: int, newest: int) -> None:
    """Every device is there, with the source that took it and its last value's time."""

    async def is_told() -> bool:
        rows = await rig.fetch(
            "select d.source, (s.metrics->'value'->>0)::bigint as at from device d join device_state s using"
            " (customer_id, device_id)"
        )
        return (
            len(rows) == devices
            and all(row["source"] for row in rows)
            and max(row["at"] for row in rows) == newest * 1000
        )

    await wait_until(is_told, seconds=30, what="devices to be told")


async def test_the_daemon_tells_of_devices_and_again_after_a_kill(tmp_path: Path) -> None:
    async with started(tmp_path) as rig, Fleet(rig.broker.port, devices=5) as fleet:
        daemon = rig.daemon(connections=[])
        daemon.start()
        await daemon.ready()
        await fleet.publish(20, rate=200)
        await fleet.flush()
        await rig.reaches("telemetry", 20)
        await daemon.kill()  # what was not told yet is not known any more
        daemon.start()
        await fleet.publish(20, rate=200)
        await fleet.flush()
        await rig.reaches("telemetry", 40)
        assert await daemon.stop() == 0  # and what waits is told before it leaves
        await _told(rig, 5, max(at for _, at in fleet.acknowledged))
