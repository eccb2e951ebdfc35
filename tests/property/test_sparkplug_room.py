"""What one edge node may hold in memory is bounded, whatever it makes up, and counting it costs no more the
more there is.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.payloads.sparkplug import births as rooms
from gateway.payloads.sparkplug import wire
from gateway.payloads.sparkplug.arrival import Arrival
from gateway.payloads.sparkplug.births import Births
from gateway.payloads.sparkplug.node import Node
from tests.integration.test_sparkplug import DOUBLE, INT64, payload

AT = 1_700_000_000_000
STEPS = st.lists(
    st.tuples(st.sampled_from(["NBIRTH", "DBIRTH", "DBIRTH", "DDEATH", "NDEATH"]), st.integers(0, 30), st.integers(1, 6)),
    max_size=80,
)  # fmt: skip
"""What is said, by which device, and how many metrics: few, so that devices often define the same."""


def said(kind: str, device: str, place: int, metrics: int) -> Arrival:
    """A message that defines so many metrics, where it is a birth."""
    lines = [{"name": f"m{n}", "alias": n, "datatype": DOUBLE, "is_null": True} for n in range(metrics)]
    if kind in ("NBIRTH", "NDEATH"):
        lines.append({"name": "bdSeq", "datatype": INT64, "long_value": 0})
    body = payload(AT + place, place % 256, *lines)
    return Arrival(
        kind=kind,  # type: ignore[arg-type]
        device="" if kind[0] == "N" else device,
        payload=wire.parse(body),
        received_at=(AT + place) * 1000,
    )


def counted(node: Node) -> int:
    """As `weight`, by adding up."""
    births = sum(len(device.births) for device in node.births.devices.values())
    return sum(len(one.lines) for one in node.births.definitions.values()) + births + len(node.births.devices)


@given(STEPS)
def test_what_is_held_is_counted_as_it_is_and_bounded(steps: list[tuple[str, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rooms, "MAX_DEFINED", 40)
        patch.setattr(rooms, "MAX_BIRTHS", 3)
        node = Node()
        for place, (kind, device, metrics) in enumerate([("NBIRTH", 0, 1), *steps]):
            for _ in node.take(said(kind, f"d{device}", place, metrics)):
                pass
            used = {birth.digest for each in node.births.devices.values() for birth in each.births}
            assert node.births.weight == counted(node) <= 40
            assert node.births.definitions.keys() == used and node.births.defined <= used


@pytest.mark.parametrize("distinct", [True, False])
def test_births_without_end_are_swept_seldom(monkeypatch: pytest.MonkeyPatch, distinct: bool) -> None:
    """Each birth of a full node went through all that came before: 20,000 took a minute of everybody's loop.
    Devices that define the same were not bounded at all.
    """
    monkeypatch.setattr(rooms, "MAX_DEFINED", 1_000)
    sweeps, sweep = [], Births._sweep
    monkeypatch.setattr(Births, "_sweep", lambda self: (sweeps.append(1), sweep(self))[1])
    node = Node()
    for place in range(3_000):
        kind = "DBIRTH" if place else "NBIRTH"
        metrics = 1 + place % 5 if distinct else 1
        for _ in node.take(said(kind, f"d{place}", place, metrics)):
            pass
    assert len(node.births.devices) <= 500
    assert 0 < len(sweeps) <= 3_000 / (len(node.births.devices) / rooms.SWEEP_SHARE) + 1
    for _ in node.take(said("NBIRTH", "", 3_001, 2)):
        pass
    for outcome in node.take(said("DBIRTH", "d1", 3_002, 3)):
        assert outcome.refusal is None, "what its births said before does not count any more"
