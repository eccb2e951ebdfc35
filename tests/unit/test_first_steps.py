"""docs/first-steps.md: what a reader types is valid, and does what the page shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from connectors.registry import SYSTEMS
from gateway import clock
from gateway.cli.explain import explain_message
from gateway.cli.main import COMMANDS
from gateway.configuration import load
from tests.fixtures.pages import ROOT, Page

PAGE = Page("first-steps.md").text
SHELL = "\n".join(Page("first-steps.md").blocks())


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """As the steps leave it: made by `init`, the source pasted, the connection declared, the servers known."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "gateway",
            "init",
            str(tmp_path / "plant"),
            "--embedded",
            "--customer",
            "acme",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (pasted,) = re.findall(r"^sed -i .*$", SHELL, re.MULTILINE)
    subprocess.run(["bash", "-c", pasted], cwd=tmp_path, check=True)
    (declared,) = re.findall(r"<<'END'\n(.*?)^END$", SHELL, re.MULTILINE | re.DOTALL)
    (tmp_path / "plant/connections.yaml").write_text(declared)
    (tmp_path / "plant/var").mkdir()
    (tmp_path / "plant/var/broker.url").write_text("mqtt://127.0.0.1:1883")
    (tmp_path / "plant/var/database.dsn").write_text("postgresql://a:b@/fieldgate?host=/sockets")
    return tmp_path / "plant"


def test_the_message_of_the_page_feeds_the_meter_of_the_page(plant: Path) -> None:
    loaded = load(plant / "fieldgate.yaml", {}, systems=SYSTEMS)
    assert [source.preset for source in loaded.settings.telemetry.sources] == [None, None, "zigbee2mqtt"]
    (payload,) = set(re.findall(r"'(\{\"temperature.*?\})'", SHELL))
    explained = explain_message(loaded, "zigbee2mqtt/kitchen", payload.encode(), now=clock.now())
    assert explained.dead_letter is None and (explained.customer, explained.device) == ("acme", "kitchen")
    (sample,) = explained.samples
    assert "kitchen temperature" in repr(sample)


def test_the_block_that_discover_prints_is_one(plant: Path) -> None:
    (block,) = re.findall(r"^  sources:\n(?:    - .*\n)+", PAGE, re.MULTILINE)
    held = yaml.safe_load((plant / "fieldgate.yaml").read_text())["telemetry"]["sources"]
    assert yaml.safe_load(block)["sources"] == held


def test_its_commands_are_known_and_its_receiver_is_a_program() -> None:
    named = {*re.findall(r"\bfieldgate ([a-z-]+)", PAGE)}
    assert named and named <= {*COMMANDS}
    (receiver,) = re.findall(r"python3 -c '\n(.*?)'$", SHELL, re.MULTILINE | re.DOTALL)
    compile(receiver, "receiver", "exec")


def test_nothing_is_published_before_the_gateway_has_reloaded() -> None:
    """What nobody subscribes yet the broker keeps for nobody."""
    (after,) = re.findall(r"kill -HUP .*\n(?:.*\n)*?mosquitto_pub", SHELL)
    assert "sleep" in after
