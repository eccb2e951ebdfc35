"""`fieldgate demo` as CI sees it: readings arrive, every switch has its effect and its end, nothing is left
behind.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiomqtt
import httpx
import psutil
import pytest

from benchmarks.servers import patient
from tests.fixtures import programs
from tests.fixtures.waiting import wait_until

DEMO = ["demo", "--devices", "3", "--rate", "12", "--data-dir"]
COMMAND = [sys.executable, "-m", "gateway", *DEMO]
"""As it is typed."""


@pytest.fixture
def folder(enterable: Path) -> Path:
    return enterable / "var"


MQTT = re.compile(r"mqtt://127\.0\.0\.1:(\d+)")


class Demo:
    """A demonstration that runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._output = folder.parent / "output"
        with self._output.open("wb") as output:
            self.process = programs.popen(
                [*programs.PROGRAM, *DEMO, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def last(self, name: str) -> int:
        """A number of the newest progress line; 0 before the first."""
        found = re.findall(rf"\b{name}=(\d+)", self.output)
        return int(found[-1]) if found else 0

    def states(self) -> list[str]:
        """Of the connection, in order."""
        events = [
            json.loads(line)
            for line in (self._folder / "demo.log").read_text().splitlines()
            if line.endswith("}")
        ]
        return [event["to_state"] for event in events if event["event"] == "connection.state_changed"]

    @property
    def key_file(self) -> Path:
        return self._folder / "config" / "cmms.key"

    async def new_key(self) -> str:
        """That the CMMS has issued, as it is shown."""

        def shown() -> str | None:
            found = re.findall(r"^new key +(\S{32})$", self.output, re.MULTILINE)
            return found[-1] if found else None

        await wait_until(lambda: shown() is not None, seconds=30, what="the new key is shown")
        return shown() or ""

    async def switch(self, **switches: object) -> None:
        (url,) = set(re.findall(r"http://\S+/_control(?=\s)", self.output))
        request = urllib.request.Request(url, data=json.dumps(switches).encode())
        await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=10).close())

    async def reaches(self, state: str) -> None:
        await wait_until(lambda: self.states()[-1:] == [state], seconds=60, what=f"the connection is {state}")

    async def delivers(self) -> None:
        before = self.last("delivered")
        await wait_until(lambda: self.last("delivered") > before, seconds=60, what="readings arrive")


@contextmanager
def running(folder: Path) -> Iterator[Demo]:
    demo = Demo(folder)
    try:
        yield demo
    finally:
        demo.process.kill()
        demo.process.wait()


async def test_readings_arrive_and_every_switch_has_its_effect(folder: Path) -> None:
    with running(folder) as demo:
        await demo.delivers()
        assert demo.states() == ["verifying", "active"]
        await demo.switch(answer_500=True)
        await demo.reaches("degraded")
        await demo.switch(answer_500=False)
        await demo.reaches("active")
        await demo.delivers()
        await demo.switch(revoke_key=True)
        await demo.reaches("reauthorization_required")
        stored = demo.last("stored")
        await wait_until(lambda: demo.last("stored") > stored, what="telemetry is stored meanwhile")
        key = await demo.new_key()
        await demo.switch(revoke_key=False)
        await demo.reaches("active")
        assert demo.key_file.read_text() == key, "what was shown is in force, by itself"
        await demo.delivers()
        servers = psutil.Process(demo.process.pid).children(recursive=True)
        assert {server.name() for server in servers} >= {"postgres", "mosquitto"}
        demo.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(demo.process.wait, 60) == 0
        assert "readings had arrived" in demo.output
        assert demo.last("repeats") == demo.last("dead_letters") == 0
        assert not [
            server for server in servers if server.is_running() and server.status() != psutil.STATUS_ZOMBIE
        ]


async def test_the_story_of_the_key_can_be_finished_by_hand(folder: Path) -> None:
    """As a person does it who looks at the dashboard: a reconnect link, and the key that is shown."""
    with running(folder) as demo:
        await demo.delivers()
        await demo.switch(revoke_key=True)
        await demo.reaches("reauthorization_required")
        key = await demo.new_key()
        assert demo.key_file.read_text() != key
        config = ("--config", str(folder / "config" / "fieldgate.yaml"))
        made = await programs.run("connections", "reauthorize", "demo-cmms", "--json", *config)
        link = json.loads(made.stdout)["url"]
        async with httpx.AsyncClient(trust_env=False, headers={"Sec-Fetch-Site": "same-origin"}) as browser:
            page = (await browser.get(link)).text
            fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
            answer = await browser.post(link, data={**fields, "api_key": key}, follow_redirects=True)
            assert answer.status_code == 200, answer.text
        await demo.reaches("active")
        await demo.delivers()
        await wait_until(lambda: demo.key_file.read_text() == key, what="the file has it too")


@pytest.mark.parametrize(("seconds", "code"), [("1", 1), ("11", 0)])
def test_it_ends_by_itself_and_tells_whether_readings_arrived(folder: Path, seconds: str, code: int) -> None:
    done = subprocess.run(
        [*COMMAND, str(folder), "--seconds", seconds],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert ("stopped; 0 readings" in done.stdout) is bool(code)


async def test_keys_work_on_a_terminal_and_leave_it_as_it_was(folder: Path) -> None:
    ours, theirs = pty.openpty()
    before = os.get_blocking(theirs)
    process = subprocess.Popen(
        [*COMMAND, str(folder)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
    )
    shown = bytearray()
    loop = asyncio.get_running_loop()
    loop.add_reader(ours, lambda: shown.extend(os.read(ours, 65536)))
    try:
        await wait_until(
            lambda: b"active" in shown and b"pump-01" in shown,
            seconds=90,
            what="the screen shows the connection and a reading",
        )
        os.write(ours, b"k")
        await wait_until(
            lambda: b"reauthorization required" in shown,
            seconds=60,
            what="the screen shows that the key was refused",
        )
        os.write(ours, b"q")
        assert await asyncio.to_thread(process.wait, 60) == 0
    finally:
        loop.remove_reader(ours)
        process.kill()
        process.wait()
    assert os.get_blocking(theirs) is before
    os.close(ours)
    os.close(theirs)


async def test_work_orders_arrive_and_an_alert_becomes_one_that_people_close(folder: Path) -> None:
    """As it is seen on MQTT: records, an alert that is raised as a work order, taken up, and closed."""
    with running(folder) as demo:
        # before readings arrive: an event is not retained, and an alert may be raised with the first ones
        await wait_until(lambda: MQTT.search(demo.output) is not None, seconds=60, what="the broker is named")
        (port,) = set(MQTT.findall(demo.output))
        states: list[str] = []
        async with aiomqtt.Client("127.0.0.1", int(port), protocol=aiomqtt.ProtocolVersion.V5) as client:
            await client.subscribe("fieldgate/v1/customers/demo/#", qos=1)
            records: set[str] = set()
            raised: str | None = None
            async with patient(110):
                async for message in client.messages:
                    topic = message.topic.value
                    if "/records/work_orders/" in topic:
                        records.add(topic.rpartition("/")[2])
                    elif "/events/alert." in topic:
                        data = json.loads(bytes(message.payload))["data"]  # type: ignore[arg-type]
                        states.append(data["state"])
                        raised = data["remote_id"] or raised
                    if "closed" in states and raised in records:
                        break
        assert states[0] == "raised" and "closed" in states
        assert demo.last("work_orders") > 0
        demo.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(demo.process.wait, 60) == 0
