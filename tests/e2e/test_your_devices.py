"""docs/your-devices.md, typed as it stands from nothing to a first reading."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import yaml

from benchmarks.servers import free_port, wait_until
from gateway.payloads import presets
from gateway.source_settings import SourceSettings
from tests.fixtures.pages import Page, Terminal


@pytest.fixture
def terminals() -> Iterator[dict[str, Terminal]]:
    address = f"127.0.0.1:{free_port()}"
    found = {
        name: Terminal(**({"FIELDGATE_HTTP__LISTEN": address} if name == "first" else {}))
        for name in ("first", "second", "third", "fourth")
    }
    yield found
    for terminal in reversed(found.values()):
        terminal.interrupts()


def without_times(text: str) -> list[str]:
    return [
        re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?Z", "TIME", line).rstrip()
        for line in text.splitlines()
    ]


def metrics_of(shown: str) -> list[tuple[str, str, str]]:
    """Metric, kind and meters, of `devices show`."""
    return re.findall(r"^(\w+) +(number|boolean|text) .*Z +(\S.*?) *$", shown, re.MULTILINE)


def is_listening(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


async def test_the_page_leads_from_a_fleet_to_its_first_reading(
    enterable: Path, terminals: dict[str, Terminal]
) -> None:
    first, second, third, fourth = terminals.values()
    port = str(free_port())
    steps = Page("first-steps.md", {"plant": f"{enterable}/plant", "9099": port})
    # the device plant/press_1 has the same folder in its name
    page = Page(
        "your-devices.md",
        {
            **{
                f"plant/{name}": f"{enterable}/plant/{name}"
                for name in ("fieldgate.yaml", "connections.yaml", "var")
            },
            "9099": port,
        },
    )

    first.stays_in(steps.block("fieldgate init"), enterable / "run.log")
    await wait_until(
        lambda: first.is_back or "gateway.started" in (enterable / "run.log").read_text(),
        what="the gateway is there", seconds=90,
    )  # fmt: skip
    assert not first.is_back, (enterable / "run.log").read_text()

    second.stays_in(page.block("fieldgate simulate"), enterable / "simulate.log")
    found = third.types(page.block("fieldgate discover"))
    shown = page.block("# paste below", "text")
    assert found[found.index("# paste") :] == shown[shown.index("# paste") :]

    third.types(page.block("kill -HUP"))
    said = third.types(page.block("fieldgate explain"))
    assert without_times(said) == without_times(page.block("is stored, and feeds no meter", "text"))

    devices = page.block("fieldgate devices list").replace("sleep 10; ", "")
    seen = ""

    def is_seen() -> bool:
        nonlocal seen
        listed = third.types(devices.splitlines()[0])
        if all(name in listed for name in ("kitchen", "Pump-Room-", "plant-press_1-")):
            seen = third.types(devices)
        # a device is written down before its metrics: the page waits 10 s for both
        return bool(metrics_of(seen))

    await wait_until(is_seen, what="the devices are seen", seconds=60, every=0.5)
    table = page.block("between two messages", "text")
    assert metrics_of(seen) == metrics_of(table) and len(metrics_of(table)) == 3

    fourth.stays_in(steps.block("python3 -c"), enterable / "readings.log")
    await wait_until(lambda: is_listening(int(port)), what="the receiver is there", seconds=20)
    declared, _, look = page.block("fieldgate apply").partition("sleep 5; ")
    assert "done: 1 of 1" in third.types(declared)

    def is_mapped() -> bool:
        metrics = metrics_of(third.types(look))
        return bool(metrics) and ("energy", "number", "unmapped") not in metrics

    await wait_until(is_mapped, what="energy feeds a meter", seconds=60, every=0.5)

    def readings() -> list[dict[str, object]]:
        lines = (enterable / "readings.log").read_text().splitlines()
        return [one for line in lines if line.startswith("[") for one in orjson.loads(line)]

    wanted = "Pump-Room-b2378075dfdb temperature"
    await wait_until(
        lambda: any(one["meter"] == wanted for one in readings()), what="a reading arrives", seconds=60
    )
    (reading, *_) = [one for one in readings() if one["meter"] == wanted]
    (example,) = orjson.loads(page.block('[{"key"', "text"))
    assert reading.keys() == example.keys() and reading["unit"] == example["unit"]
    assert isinstance(reading["value"], float) and 15 < reading["value"] < 70
    (command,) = re.findall(r"`(fieldgate dead-letters list [^`]*)`", page.text)
    assert "no dead letters" in third.types(command)
    assert not second.is_back, (enterable / "simulate.log").read_text()
    assert second.interrupts() == 0, (enterable / "simulate.log").read_text()


def test_the_sources_of_the_table_are_what_takes_the_fleets() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\{.*?\})` \|", Page("your-devices.md").text, re.MULTILINE)
    assert len(rows) >= 5
    for name, line in rows:
        source = SourceSettings.model_validate(yaml.safe_load(line))
        assert source.preset == name and name in presets.names()
