"""Sparkplug B against nodes that know what is true: whatever is lost, late, repeated or forgotten, a value
that is taken is taken under its right name, and of a message of which a value is not taken a dead letter is
kept.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.ingest import sparkplug
from gateway.ingest.sparkplug import Bounds, NodeTopic, arrival, take
from gateway.payloads.sources import compile_one
from gateway.payloads.sparkplug.births import Birth, Births, NodeDevice
from gateway.payloads.sparkplug.definitions import from_stored
from gateway.payloads.sparkplug.node import Node
from gateway.payloads.sparkplug.waiting import WaitingMessages
from gateway.source_settings import SourceSettings
from tests.fixtures.sparkplug import LEAST_NUMBER, EdgeNode, Fact, Sent, channel

SOURCE = compile_one(SourceSettings(topic="spBv1.0/{customer}/#", format="sparkplug_b"))[0]
STABLE = compile_one(SourceSettings(topic="spBv1.0/{customer}/#", format="sparkplug_b", aliases="stable"))[0]
BOUNDS = Bounds(max_future=300_000_000, retention=10**15)


def restored(node: Node) -> Node:
    """As it is after a restart: what waits in memory is gone."""
    definitions = {
        digest: from_stored(orjson.loads(held.payload())) for digest, held in node.births.definitions.items()
    }
    devices = {
        name: NodeDevice([Birth(one.at, one.until, one.digest) for one in device.births], device.offline_at)
        for name, device in node.births.devices.items()
    }
    return Node(
        bd_seq=node.bd_seq,
        next=node.next,
        until=node.until,
        waiting=WaitingMessages(gap_at=node.waiting.gap_at),
        is_certain=node.is_certain,
        births=Births(devices=devices, definitions=definitions),
    )


@dataclass
class Gateway:
    """One that stores batches, and is killed before or after the broker was told."""

    source: object = SOURCE
    node: Node = field(default_factory=Node)
    kept: Node = field(default_factory=Node)
    stored: dict[Fact, None] = field(default_factory=dict)
    dead: set[bytes] = field(default_factory=set)
    missing: int = 0

    def node_topic(self, message: Sent) -> tuple[NodeTopic, str]:
        topic = f"spBv1.0/acme/{message.kind}/edge" + (f"/{message.device}" if message.device else "")
        return sparkplug.node_topic(topic, "acme", self.source), topic  # type: ignore[arg-type]

    def process(self, batch: Sequence[Sent], received_at: int) -> None:
        """Reads and commits."""
        facts: list[Fact] = []
        for message in batch:
            node_topic, topic = self.node_topic(message)
            for taken in take(
                self.node, node_topic, arrival(node_topic, topic, message.payload, received_at), BOUNDS
            ):
                device = taken.arrival.device
                facts += [
                    (device, at // 1000, name, value)
                    for _, _, at, metrics in taken.rows
                    for name, value in metrics.items()
                ]
                if taken.refusal is not None:
                    self.dead.add(taken.arrival.raw)
                elif taken.was_held:
                    self.dead.discard(taken.arrival.raw)
        self.stored.update(dict.fromkeys(facts))
        self.kept = restored(self.node)

    def killed(self) -> None:
        self.node = restored(self.kept)


def run(
    seed: int, *, count: int, lost: float, swapped: float, kills: float, batch: int = 40, stable: bool = False
) -> tuple[Gateway, int]:
    """Checks all of it; the gateway afterwards, and how many messages it was given."""
    chance = random.Random(seed)
    edge = EdgeNode(chance, reshuffles=not stable)
    gateway = Gateway(source=STABLE if stable else SOURCE)
    truth: dict[Fact, None] = {}
    given = 0
    while given < count:
        sent = list(edge.life(min(count, 400)))
        truth.update(dict.fromkeys(fact for message in sent for fact in message.facts))
        arrived = channel(sent, chance, lost=lost, swapped=swapped)
        acknowledged = place = 0
        while acknowledged < len(arrived):
            end = min(len(arrived), place + chance.randint(1, batch))
            received = edge.at * 1000
            if chance.random() < kills:  # before the commit: nothing of it was stored
                gateway.killed()
                place = acknowledged
                continue
            gateway.process(arrived[place:end], received)
            place = end
            if chance.random() < kills:  # after the commit, before the broker was told
                gateway.killed()
                place = acknowledged
                continue
            acknowledged = end
        given += len(arrived)
        if gateway.node.wants_rebirth:
            births = []
            while edge.is_up and edge.seq < LEAST_NUMBER:
                births.append(edge.data())
            births += edge.births()  # as it is asked for
            truth.update(dict.fromkeys(fact for message in births for fact in message.facts))
            gateway.process(births, edge.at * 1000)
            arrived += births
        wrong = [fact for fact in gateway.stored if fact not in truth]
        assert not wrong, wrong[:3]
        vanished = [
            message
            for message in arrived
            if message.payload not in gateway.dead
            and not all(fact in gateway.stored for fact in message.facts)
        ]
        assert not vanished, [(message.kind, message.device) for message in vanished[:3]]
        gateway.missing = len(truth.keys() - gateway.stored.keys())
    return gateway, given


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    lost=st.sampled_from([0.0, 0.002, 0.05]),
    swapped=st.sampled_from([0.0, 0.01, 0.2]),
    kills=st.sampled_from([0.0, 0.1]),
)
@example(seed=36188, lost=0.05, swapped=0.2, kills=0.1)
@example(seed=100814, lost=0.05, swapped=0.2, kills=0.1)
def test_every_value_is_under_its_right_name_or_its_message_is_kept(
    seed: int, lost: float, swapped: float, kills: float
) -> None:
    run(seed, count=600, lost=lost, swapped=swapped, kills=kills)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), kills=st.sampled_from([0.0, 0.2]))
def test_a_channel_that_keeps_what_it_is_given_leaves_no_dead_letter(seed: int, kills: float) -> None:
    """And what is repeated after a crash is read as it was read before."""
    gateway, _ = run(seed, count=800, lost=0, swapped=0, kills=kills)
    assert gateway.missing == 0
    assert kills or not gateway.dead


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_stable_aliases_leave_nothing_behind_a_gap(seed: int) -> None:
    """Where somebody answers for it, the data behind a lost message are read, for as
    long as births arrive.
    """
    chance = random.Random(seed)
    edge = EdgeNode(chance, reshuffles=False)
    gateway = Gateway(source=STABLE)
    gateway.process(list(edge.births()), edge.at * 1000)
    sent = channel([edge.data() for _ in range(300)], chance, lost=0.2, swapped=0)
    gateway.process(sent, edge.at * 1000)
    assert not gateway.dead
    assert {fact for message in sent for fact in message.facts} <= set(gateway.stored)
    assert gateway.node.wants_rebirth


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_million_messages() -> None:
    wanted, given_so_far, seed = int(os.environ.get("MESSAGES", "1000000")), 0, 0
    while given_so_far < wanted:
        chance = random.Random(seed)
        _, count = run(
            seed,
            count=20_000,
            lost=chance.choice([0.0, 0.001, 0.01, 0.1]),
            swapped=chance.choice([0.0, 0.01, 0.3]),
            kills=chance.choice([0.0, 0.05, 0.3]),
        )
        given_so_far += count
        seed += 1
    print(f"{given_so_far} messages, {seed} nodes")
