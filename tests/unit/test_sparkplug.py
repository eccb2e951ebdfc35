"""Sparkplug B at its edges: topics and ids, what sources may say, explain, discover, and payloads of every
kind.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.ingest.decode import Decoder, Row
from gateway.ingest.discover import discover
from gateway.ingest.explain import explain
from gateway.ingest.intake import Intake
from gateway.ingest.proposal import HeardMessage
from gateway.model.errors import DecodeError
from gateway.payloads.fields import Skipped
from gateway.payloads.sources import SourceError, compile_one, compile_sources
from gateway.payloads.sparkplug.topic import Address, device_id
from gateway.payloads.sparkplug.wire import PAYLOAD
from gateway.settings import Settings, TelemetrySettings
from gateway.source_settings import SourceSettings

NOW = datetime(2026, 11, 29, tzinfo=UTC)
AT = int(NOW.timestamp() * 1000) - 60_000
SPARKPLUG = {"topic": "spBv1.0/{customer}/#", "format": "sparkplug_b"}


def payload(seq: int, *metrics: dict[str, Any], at: int = AT) -> bytes:
    message: Any = PAYLOAD(timestamp=at, seq=seq)
    for metric in metrics:
        message.metrics.add(**{"timestamp": at, **metric})
    return message.SerializeToString()


def telemetry(*sources: dict[str, Any]) -> TelemetrySettings:
    return TelemetrySettings.model_validate({"sources": list(sources or [SPARKPLUG])})


class Reader:
    """A decoder, and what it left out."""

    def __init__(self, *sources: dict[str, Any]) -> None:
        self.skipped: list[Skipped] = []
        settings = telemetry(*sources)
        self._decoder = Decoder(
            settings, compile_sources(settings.sources), ["acme"], skip=self.skipped.append
        )

    def read(self, topic: str, payload: bytes) -> list[Row]:
        return self._decoder.decode(topic, payload, (AT + 1000) * 1000)

    def metrics(self, *metrics: dict[str, Any]) -> dict[str, object]:
        """Of one birth."""
        rows = self.read("spBv1.0/acme/NBIRTH/edge", payload(0, *metrics))
        return {name: value for row in rows for name, value in row[3].items()}


@pytest.mark.parametrize(
    ("edge", "device", "with_group", "expected"),
    [
        ("line1", "", False, "line1"),
        ("line1", "pump-7", False, "line1.pump-7"),
        ("line1", "pump-7", True, "plant.line1.pump-7"),
    ],
)
def test_ids_of_plain_names(edge: str, device: str, with_group: bool, expected: str) -> None:
    address = Address(kind="NDATA", group="plant", edge=edge)
    assert device_id(address, device, with_group=with_group) == expected


def test_two_devices_never_share_an_id() -> None:
    names = ("a", "a.b", "b", "a.b.c", "b.c", "c", "A b", "a/b".replace("/", " "), "ä", "-", "x" * 80)
    ids = {
        device_id(Address(kind="DDATA", group="g", edge=edge), device, with_group=False): (edge, device)
        for edge in names
        for device in ("", *names)
    }
    assert len(ids) == len(names) * (len(names) + 1)


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ({"topic": "spBv1.0/{customer}/{device}", "format": "sparkplug_b"}, "topic"),
        ({"topic": "spAv1.0/{customer}/#", "format": "sparkplug_b"}, "topic"),
        ({"topic": "spBv1.0/+/#", "format": "sparkplug_b", "customer": "acme"}, "topic"),
        ({"topic": "spBv1.0/plant/#", "format": "sparkplug_b"}, "topic"),
        ({**SPARKPLUG, "device": "pump"}, "device"),
        ({**SPARKPLUG, "time": {"path": "t"}}, "time"),
        ({**SPARKPLUG, "encoding": "gzip"}, "encoding"),
        ({"topic": "{customer}/{device}", "aliases": "stable"}, "aliases"),
        ({"topic": "{customer}/#", "device": "a"}, "topic"),
    ],
)
def test_sources_that_make_no_sense_are_named(source: dict[str, Any], key: str) -> None:
    with pytest.raises(SourceError) as raised:
        compile_one(SourceSettings.model_validate(source))
    assert raised.value.key == key


def test_a_group_can_be_mapped_to_a_customer() -> None:
    reader = Reader({"topic": "site/spBv1.0/Plant A/#", "format": "sparkplug_b", "customer": "acme"})
    [row] = reader.read(
        "site/spBv1.0/Plant A/NBIRTH/edge", payload(0, {"name": "v", "datatype": 10, "double_value": 1.5})
    )
    assert row[0] == "acme"
    assert row[1].startswith("Plant-A-edge-")
    assert row[3] == {"v": 1.5}


@pytest.mark.parametrize(
    "topic", ["spBv1.0/STATE/host", "spBv1.0/acme/NCMD/edge", "spBv1.0/acme/DCMD/edge/pump"]
)
def test_what_hosts_say_is_no_telemetry(topic: str) -> None:
    assert Reader().read(topic, b"\xff") == []


@pytest.mark.parametrize(
    "topic",
    [
        "spBv1.0/acme/NDATA/edge/pump",
        "spBv1.0/acme/DDATA/edge",
        "spBv1.0/acme/NOTHING/edge",
        "spBv1.0/acme/DDATA/edge/",
        "spBv1.0/acme/NDATA",
    ],
)
def test_other_topics_are_dead_letters(topic: str) -> None:
    with pytest.raises(DecodeError) as raised:
        Reader().read(topic, payload(0))
    assert raised.value.reason == "unmatched_topic"


def test_values_of_a_birth_and_what_is_left_out() -> None:
    reader = Reader()
    made: Any = PAYLOAD()
    quality = made.metrics.add().properties
    quality.keys.append("Quality")
    quality.values.add(type=3, int_value=500)
    assert reader.metrics(
        {"name": "i8", "datatype": 1, "int_value": 2**32 - 1},
        {"name": "u64", "datatype": 8, "long_value": 2**53},
        {"name": "big", "datatype": 8, "long_value": 2**53 + 1},
        {"name": "nan", "datatype": 10, "double_value": float("nan")},
        {"name": "null", "datatype": 3, "is_null": True},
        {"name": "passing", "datatype": 3, "int_value": 1, "is_transient": True},
        {"name": "stale", "datatype": 3, "int_value": 1, "properties": quality},
        {"name": "bytes", "datatype": 17, "bytes_value": b"abc"},
        {"name": "list", "datatype": 24, "bytes_value": b"\1\0\0\0"},
        {"name": "old", "datatype": 3, "int_value": 1, "is_historical": True, "timestamp": AT - 5000},
        {"name": "Node Control/Rebirth", "datatype": 11, "boolean_value": False},
        {"name": "bdSeq", "datatype": 8, "long_value": 1},
    ) == {"i8": -1, "u64": 2**53, "old": 1}
    assert {(one.name, str(one.reason)) for one in reader.skipped} == {
        ("big", "not_exact"),
        ("nan", "not_finite"),
        ("null", "null"),
        ("passing", "transient"),
        ("stale", "bad_quality"),
        ("bytes", "wrong_shape"),
        ("list", "array"),
    }


def test_a_birth_of_a_thousand_metrics_is_one_sample() -> None:
    many = [{"name": f"m{number}", "datatype": 3, "int_value": number} for number in range(1000)]
    [row] = Reader().read("spBv1.0/acme/NBIRTH/edge", payload(0, *many))
    assert len(row[3]) == 1000


def test_what_comes_again_from_behind_a_gap_is_not_read_by_a_later_birth() -> None:
    """By chance it has the number that comes next."""
    reader, topic = Reader(), "spBv1.0/acme/N{}/edge"

    def data(seq: int, at: int) -> list[Row]:
        told = payload(seq, {"alias": 1, "double_value": 1.0 * seq}, at=AT + at)
        return reader.read(topic.format("DATA"), told)

    def birth(name: str, at: int) -> None:
        defined = {"name": name, "alias": 1, "datatype": 10, "double_value": 0.5}
        reader.read(topic.format("BIRTH"), payload(0, defined, at=AT + at))

    birth("pressure", 0)
    assert data(1, 10)[0][3] == {"pressure": 1.0}
    with pytest.raises(DecodeError, match="sequence_gap"):
        data(3, 30)
    birth("level", 100)
    assert [data(seq, 100 + seq)[0][3] for seq in (1, 2)] == [{"level": 1.0}, {"level": 2.0}]
    with pytest.raises(DecodeError, match="before_birth"):
        data(3, 30)
    assert data(3, 103)[0][3] == {"level": 3.0}


def test_one_alias_for_two_names_is_refused() -> None:
    with pytest.raises(DecodeError) as raised:
        Reader().metrics(
            {"name": "a", "alias": 1, "datatype": 3, "int_value": 1},
            {"name": "b", "alias": 1, "datatype": 3, "int_value": 1},
        )
    assert raised.value.reason == "same_name"


def test_explain_reads_data_by_the_births_before_them() -> None:
    birth = payload(0, {"name": "Flow", "alias": 7, "datatype": 10, "double_value": 1.5})
    data = payload(1, {"alias": 7, "double_value": 2.5}, at=AT + 1)
    asked = {"telemetry": telemetry(), "customers": ["acme"], "connections": [], "now": NOW}
    alone = explain("spBv1.0/acme/NDATA/edge", data, **asked)  # type: ignore[arg-type]
    assert alone.dead_letter == "before_birth"
    assert "--after" in (alone.advice or "")
    found = explain(
        "spBv1.0/acme/NDATA/edge",
        data,
        after=[("spBv1.0/acme/NBIRTH/edge", birth)],
        **asked,  # type: ignore[arg-type]
    )
    assert found.device == "edge"
    assert [sample.metrics for sample in found.samples] == [{"Flow": 2.5}]


def test_data_whose_birth_was_not_heard_are_discovered() -> None:
    data = payload(9, {"alias": 7, "double_value": 2.5})
    heard = [HeardMessage(topic="spBv1.0/plant/DDATA/line1/pump", payload=data)] * 3
    found = discover(
        heard, telemetry=telemetry({"topic": "{customer}/devices/{device}/telemetry"}), customers=["acme"],
        customer=None, now=NOW,
    )  # fmt: skip
    [group] = found.known
    assert group.source == {"preset": "sparkplug_b", "customer": "acme"}
    again = discover(heard, telemetry=telemetry({"preset": "sparkplug_b", "customer": "acme"}), customers=["acme"], customer=None, now=NOW)  # fmt: skip
    assert not again.refused
    assert again.taken[0].messages == 3


@pytest.mark.parametrize(
    ("source", "partitions", "expected"),
    [
        (SPARKPLUG, 1, [["spBv1.0/+/#"]]),
        ({**SPARKPLUG, "topic": "spBv1.0/plant/#", "customer": "acme"}, 1, [["spBv1.0/plant/#", "spBv1.0/STATE/me"]]),
        ({"topic": "{customer}/devices/{device}/telemetry"}, 1, [["+/devices/+/telemetry"]]),
    ],
)  # fmt: skip
def test_the_state_of_the_host_is_heard_by_who_tells_it(
    source: dict[str, Any], partitions: int, expected: list[list[str]]
) -> None:
    settings = Settings.model_validate(
        {
            "customers": ["acme", "globex", "initech"],
            "broker": {"partitions": partitions},
            "security": {"encryption_keys": ["k" * 44]},
            "telemetry": {"sources": [source], "sparkplug": {"host_id": "me"}},
        }
    )
    intake = Intake.of(settings, lambda *_: None)
    assert [intake.filters(number) for number in range(partitions)] == expected


def test_one_partition_of_several_tells_the_state() -> None:
    settings = Settings.model_validate(
        {
            "customers": ["acme", "globex", "initech", "hooli"],
            "broker": {"partitions": 4},
            "security": {"encryption_keys": ["k" * 44]},
            "telemetry": {"sources": [SPARKPLUG], "sparkplug": {"host_id": "me"}},
        }
    )
    intake = Intake.of(settings, lambda *_: None)
    telling = [number for number in range(4) if intake.tells_state(number)]
    assert len(telling) == 1
    assert sum("spBv1.0/STATE/me" in intake.filters(number) for number in range(4)) == 1
    assert "spBv1.0/STATE/me" in intake.filters(telling[0])


def test_what_comes_twice_in_a_table_or_a_structure_is_told() -> None:
    """The first is taken, as of two metrics of one name: the other was lost, and nobody knew."""
    message: Any = PAYLOAD(timestamp=AT, seq=0)
    table = message.metrics.add(name="T", datatype=16, timestamp=AT).dataset_value
    table.columns.extend(["a", "a", "b"])
    table.types.extend([3, 3, 3])
    row = table.rows.add()
    for number in (1, 2, 3):
        row.elements.add(int_value=number)
    motor = message.metrics.add(name="M", datatype=19, timestamp=AT).template_value
    for number in (4, 5):
        motor.metrics.add(name="rpm", datatype=3, int_value=number)
    reader = Reader()
    ((_, _, _, metrics),) = reader.read("spBv1.0/acme/NBIRTH/edge", message.SerializeToString())
    assert metrics == {"T.0.a": 1, "T.0.b": 3, "M.rpm": 4}
    assert [(one.name, str(one.reason)) for one in reader.skipped] == [
        ("T.0.a", "same_name"),
        ("M.rpm", "same_name"),
    ]
