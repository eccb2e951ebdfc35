"""Blocks of how-to pages that need a broker or a collector, typed as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.servers import Mosquitto, accepts, free_port, wait_until
from gateway import tracing
from gateway.tracing_settings import TracingSettings
from tests.fixtures.pages import ROOT, Page, Terminal


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    opened = Terminal()
    yield opened
    opened.interrupts()


def test_a_message_of_sparkplug_is_followed_by_its_births(
    tmp_path: Path, mosquitto: Mosquitto, terminal: Terminal
) -> None:
    plant = tmp_path / "plant"
    subprocess.run(
        [sys.executable, "-m", "gateway", "init", plant, "--embedded", "--customer", "acme"],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (plant / "var").mkdir()
    (plant / "var/broker.url").write_text(mosquitto.url)
    (plant / "var/database.dsn").write_text("postgresql://a:b@/fieldgate?host=/sockets")
    here = {f"plant/{name}": f"{plant}/{name}" for name in ("fieldgate.yaml", "heard", "var")}
    page = Page("sparkplug.md", {**here, "-p 1883": f"-p {mosquitto.port}"})
    said = terminal.types(page.block("--after"))
    shown = page.block("topic  ", "text")
    assert "Temperature = " in said and "Running = true" in said

    def without_values(text: str) -> list[str]:
        return [re.sub(r"\d[\d.: -]*Z?", "N", line).rstrip() for line in text.splitlines()]

    assert without_values(said[said.index("topic") :]) == without_values(shown)


async def test_the_collector_of_the_page_prints_spans(tmp_path: Path, terminal: Terminal) -> None:
    port = free_port()
    terminal.stays_in(Page("tracing.md", {"4318": str(port)}).block("python3 -c"), tmp_path / "spans")
    await wait_until(lambda: terminal.is_back or accepts(port), what="the collector listens")
    settings = TracingSettings.model_validate({"endpoint": f"http://127.0.0.1:{port}", "ingest_sample": 1})
    tracing.setup(settings, instance="plant-1", replica="a", process="daemon")
    try:
        with tracing.span("sync.run"):
            pass
    finally:
        tracing.stop()
    await wait_until(lambda: "sync.run" in (tmp_path / "spans").read_text(), what="the span is printed")
    (line,) = (tmp_path / "spans").read_text().splitlines()
    assert re.fullmatch(r"[0-9a-f]{8} +\d+\.\d ms  sync\.run", line)
