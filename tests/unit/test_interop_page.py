"""docs/brokers.md says what the committed result says, and the result has what the suite asks."""

from __future__ import annotations

import copy
import json

import pytest

from tests.interop.adapters import ADAPTERS, Broker
from tests.interop.page import PAGE, RESULT, rewritten
from tests.interop.run import one_broker, parse
from tests.interop.suite import CHECKS


def test_the_page_is_made_of_the_result() -> None:
    page, result = PAGE.read_text(), json.loads(RESULT.read_text())
    assert page == rewritten(page, result), "python -m tests.interop.page"
    other = copy.deepcopy(result)
    other["brokers"]["mosquitto"]["checks"]["redelivery"].update(outcome="no", said="none came again")
    assert "none came again" in rewritten(page, other)
    assert "sIGKILL" not in page, "a word in capitals keeps them"


def test_the_result_has_every_broker_and_every_check() -> None:
    result = json.loads(RESULT.read_text())["brokers"]
    assert set(result) <= set(ADAPTERS)
    run = {name: one for name, one in result.items() if "checks" in one}
    assert len(run) >= 5 and sum(one["nodes"] > 1 for one in run.values()) >= 2
    for name, one in run.items():
        wanted = {check.name for check in CHECKS} - ({"node_killed"} if one["nodes"] == 1 else set())
        assert set(one["checks"]) == wanted, name
    through = [one for one in run.values() if "through" in one]
    assert len(through) >= 4 and sum(one["nodes"] > 1 for one in through) >= 2
    assert all("keeps_up" in one["through"] for one in through)
    assert all("away" in one["through"] for one in through if one["nodes"] > 1)


def test_the_result_names_no_path_of_the_machine_it_was_made_on() -> None:
    text = RESULT.read_text()
    assert "/tmp/" not in text and "/root" not in text and "/work" not in text


def test_where_no_broker_is_named_every_one_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse([]).names == list(ADAPTERS)
    assert parse(["mochi", "--messages", "0"]).names == ["mochi"]
    with pytest.raises(SystemExit):
        parse(["mochi", "nobody"])
    assert "nobody: expected one of mosquitto," in capsys.readouterr().err


async def test_a_broker_that_does_not_start_is_told_and_the_others_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Never(Broker):
        name, title, package, configuration = "never", "Never", "nowhere", "nothing"

        def version(self) -> str:
            return "1"

        async def start(self) -> None:
            raise TimeoutError("not within 120 s: never accepts connections")

    monkeypatch.setitem(ADAPTERS, "never", Never)
    found = await one_broker("never", 0)
    assert found["missing"] == "it did not run: not within 120 s: never accepts connections"
    assert (found["title"], found["version"]) == ("Never", "1") and "checks" not in found
