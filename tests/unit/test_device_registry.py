"""What ingest keeps of devices between two rounds: against a plain fold over everything that was stored."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import clock
from gateway.ingest import registry as module
from gateway.ingest.decode import Decoder
from gateway.ingest.registry import MAX_TEXT, Registry
from gateway.model.errors import StoreRejected, StoreUnavailable
from gateway.model.pressure import Pressure
from gateway.payloads.sources import compile_sources
from gateway.quota_settings import MAX_METRICS_PER_DEVICE
from gateway.settings import TelemetrySettings
from gateway.store import devices as stored_devices
from gateway.store.devices import Seen

SAMPLES = st.lists(
    st.tuples(
        st.tuples(st.just("acme"), st.sampled_from(["a", "b"]), st.integers(1, 9)),
        st.dictionaries(st.sampled_from("xyz"), st.integers(0, 9), min_size=1),
        st.integers(1, 99),
    ),
    max_size=30,
)


class Stored:
    """Takes what is written; refuses as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rounds: list[list[Seen]] = []
        self.refusals: list[Exception] = []
        monkeypatch.setattr(stored_devices, "write", self.write)

    async def write(
        self, _database: object, seen: list[Seen], _payloads: list[bytes]
    ) -> list[tuple[str, str]]:
        if self.refusals:
            raise self.refusals.pop(0)
        self.rounds.append(seen)
        return []


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Stored:
    return Stored(monkeypatch)


def registry() -> Registry:
    return Registry(None)  # type: ignore[arg-type]


def folded(samples: list[Any]) -> dict[str, Any]:
    """By device: first, last, seen, and each metric with its time: the later one, of equals the one that came
    last.
    """
    found: dict[str, Any] = {}
    for (_, device, at), metrics, received in samples:
        first, last, seen, values = found.get(device, (at, at, received, {}))
        for name, value in metrics.items():
            if at >= values.get(name, (at, 0))[0]:
                values[name] = (at, value)
        found[device] = (min(first, at), max(last, at), max(seen, received), values)
    return found


def shown(seen: list[Seen]) -> dict[str, Any]:
    return {
        one.device: (
            one.first,
            one.last,
            one.seen,
            {name: (one.times[name], value) for name, value in one.values.items()},
        )
        for one in seen
    }


@settings(deadline=None)
@given(before=SAMPLES, after=SAMPLES)
async def test_a_round_holds_the_latest_of_each_metric(before: list[Any], after: list[Any]) -> None:
    """Also where the database was away in between: what waited is told with what came meanwhile."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        stored, kept = Stored(monkeypatch), registry()
        kept.note(before)
        taken, _ = kept._take()
        kept.note(after)
        kept._put_back(taken)
        await kept.flush()
        written = shown([one for part in stored.rounds for one in part])
    # of two samples of one instant either is right: compare what is not a tie
    expected = folded(before + after)
    assert {k: v[:3] for k, v in written.items()} == {k: v[:3] for k, v in expected.items()}
    for device, (_, _, _, values) in expected.items():
        assert {n: at for n, (at, _) in values.items()} == {
            n: at for n, (at, _) in written[device][3].items()
        }


@settings(deadline=None)
@given(samples=SAMPLES)
async def test_a_round_is_the_fold_of_what_was_noted(samples: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        stored, kept = Stored(monkeypatch), registry()
        kept.note(samples)
        await kept.flush()
        assert shown([one for part in stored.rounds for one in part]) == folded(samples)


async def test_what_the_batch_holds_is_not_changed(stored: Stored) -> None:
    """The same mapping may be written again by the commit."""
    kept, metrics = registry(), {"t": 1}
    kept.note([(("acme", "a", 1), metrics, 1)])
    kept.note([(("acme", "a", 2), {"u": 2}, 2)])
    assert metrics == {"t": 1}


async def test_a_database_that_is_away_loses_nothing_and_what_it_refuses_goes(stored: Stored) -> None:
    kept = registry()
    kept.introduce("acme", "a", "Pump Room", "{customer}/{device}")
    kept.note([(("acme", "a", 1), {"t": 1}, 1)])
    stored.refusals = [StoreUnavailable("away"), StoreRejected("never")]
    await kept.flush()
    kept.note([(("acme", "a", 2), {"u": 2}, 2)])
    await kept.flush()
    await kept.flush()
    assert stored.rounds == []
    kept.note([(("acme", "a", 3), {"t": 3}, 3)])
    await kept.flush()
    assert [one.values for one in stored.rounds[0]] == [{"t": 3}]


async def test_title_and_source_are_kept_over_an_outage(stored: Stored) -> None:
    kept = registry()
    kept.introduce("acme", "a", "Pump Room", "{customer}/{device}")
    kept.note([(("acme", "a", 1), {"t": 1}, 1)])
    stored.refusals = [StoreUnavailable("away")]
    await kept.flush()
    await kept.flush()
    assert [(one.title, one.source) for one in stored.rounds[0]] == [("Pump Room", "{customer}/{device}")]


@pytest.mark.parametrize(("waited_seconds", "written"), [(0.0, 20), (1.0, 10)])
async def test_a_round_is_smaller_while_acknowledgements_are_late(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, waited_seconds: float, written: int
) -> None:
    monkeypatch.setattr(module, "MAX_WRITTEN", 20)
    monkeypatch.setattr(module, "SLICE", 5)
    pressure = Pressure()
    pressure.note(waited_seconds, now=clock.monotonic())
    kept = Registry(None, pressure)  # type: ignore[arg-type]
    kept.note([(("acme", f"d{number}", number), {"t": 1}, number) for number in range(40)])
    await kept.flush()
    assert sum(map(len, stored.rounds)) == written


async def test_a_round_is_bounded_and_those_that_waited_longest_go_first(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WRITTEN", 20)
    monkeypatch.setattr(module, "SLICE", 10)
    kept, last = registry(), dict.fromkeys([f"d{number:02}" for number in range(30)], 0)
    for turn in range(1, 8):
        kept.note([(("acme", name, turn), {"t": turn}, turn) for name in last])
        stored.rounds.clear()
        await kept.flush()
        written = [one.device for part in stored.rounds for one in part]
        assert len(written) == len(set(written)) == 20
        last.update(dict.fromkeys(written, turn))
        assert min(last.values()) >= turn - 2  # nobody waits for ever


async def test_texts_metrics_and_devices_are_bounded(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    kept = registry()
    for number in range(3 * MAX_METRICS_PER_DEVICE):
        kept.note([(("acme", "a", number), {f"m{number}": "x" * 999}, number)])
    kept.note([(("acme", "b", 1), {"t": 1}, 1), (("acme", "c", 1), {"t": 1}, 1)])
    await kept.flush()
    first, second = stored.rounds[0]
    assert len(first.values) == len(first.times) == MAX_METRICS_PER_DEVICE
    assert f"m{3 * MAX_METRICS_PER_DEVICE - 1}" in first.values
    assert {len(str(value)) for value in first.values.values()} == {MAX_TEXT}
    assert second.device == "b"


def told(source: dict[str, object], *messages: tuple[str, bytes]) -> list[tuple[str, str, str | None, str]]:
    found: list[tuple[str, str, str | None, str]] = []
    telemetry = TelemetrySettings.model_validate({"sources": [source]})
    decoder = Decoder(
        telemetry,
        compile_sources(telemetry.sources),
        ["acme"],
        introduce=lambda *given: found.append(given),
    )
    for topic, payload in messages:
        decoder.decode(topic, payload, 1_800_000_000_000_000)
    return found


def test_the_decoder_tells_a_name_that_is_no_id_and_the_source() -> None:
    source: dict[str, object] = {"topic": "zigbee2mqtt/{device}", "customer": "acme"}
    message = ("zigbee2mqtt/Pump Room", b'{"t": 1}')
    [(customer, device, title, topic)] = told(source, message, message)  # once: at the topic's first message
    assert (customer, title, topic) == ("acme", "Pump Room", "zigbee2mqtt/{device}")
    assert device.startswith("Pump-Room-")
    assert told(source, ("zigbee2mqtt/pump", b'{"t": 1}')) == [("acme", "pump", None, "zigbee2mqtt/{device}")]


def test_the_decoder_tells_a_name_of_the_payload() -> None:
    source: dict[str, object] = {"topic": "up", "customer": "acme", "device": {"path": "n"}}
    [(_, device, title, _)] = told(source, ("up", b'{"n": "Press 1", "t": 1}'))
    assert device != "Press 1"
    assert title == "Press 1"
    source = {"topic": "up/{device}", "customer": {"path": "c"}}
    [(customer, _, title, _)] = told(source, ("up/Press 1", b'{"c": "acme", "t": 1}'))
    assert (customer, title) == ("acme", "Press 1")
