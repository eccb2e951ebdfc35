"""An intake says what is taken in by one version of the configuration: by which sources, of which customers,
and which filters each partition subscribes. A reload makes a new intake, and for a while both are in force.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway import metrics
from gateway.ingest.certificate import state_topic
from gateway.ingest.decode import Decoder, FormerIntake, Introduce
from gateway.ingest.subscriptions import DROPPED_TOPIC
from gateway.model.subscriptions import matches
from gateway.model.topics import filters, is_sparkplug, owner_of
from gateway.payloads.fields import Skipped
from gateway.payloads.sources import CompiledSource, compile_sources, only
from gateway.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Settings, the sources compiled from them, and `introduce`, which is called with each device that is
    met.
    """

    settings: Settings
    sources: tuple[CompiledSource, ...]
    introduce: Introduce

    @classmethod
    def of(cls, settings: Settings, introduce: Introduce) -> Intake:
        """Compiles the sources of these settings."""
        sources = compile_sources(settings.telemetry.sources)
        return cls(settings=settings, sources=sources, introduce=introduce)

    def filters(self, partition: int) -> list[str]:
        """The filters that this partition subscribes."""
        found = self._filters(partition)
        topic = state_topic(self.settings.telemetry.sparkplug)
        if topic is None or not self.tells_state(partition):
            return found
        if not any(matches(topic, one) for one in found):
            found.append(topic)
        return found

    def tells_state(self, partition: int) -> bool:
        """Whether this partition tells that the Sparkplug host application lives: the first one that reads
        Sparkplug does so for all, whichever replica holds it.
        """
        reading = (
            number
            for number in range(self.settings.broker.partitions)
            if any(is_sparkplug(one) for one in self._filters(number))
        )
        return partition == next(reading, None)

    def _filters(self, partition: int) -> list[str]:
        return filters(
            only(self.sources),
            self.settings.customers,
            partition=partition,
            partitions=self.settings.broker.partitions,
        )

    def owner(self, partition: int) -> str | None:
        """The customer that has this partition alone; None where there are several, or where any customer may
        send.
        """
        if self.settings.telemetry.auto_register_customers:
            return None
        return owner_of(
            only(self.sources),
            self.settings.customers,
            partition=partition,
            partitions=self.settings.broker.partitions,
        )

    def decoder(self, former: FormerIntake | None = None, *, customers: Sequence[str] = ()) -> Decoder:
        """A decoder for this intake. `former`: what was in force before; `customers`: those that are taken
        beside the configured ones.
        """
        state = state_topic(self.settings.telemetry.sparkplug)
        return Decoder(
            self.settings.telemetry,
            self.sources,
            (*self.settings.customers, *customers),
            skip=_count_skipped,
            former=former,
            introduce=self.introduce,
            defers_sparkplug=True,
            beside=(DROPPED_TOPIC,) if state is None else (DROPPED_TOPIC, state),
        )

    def beside(self, others: Sequence[CompiledSource]) -> tuple[CompiledSource, ...]:
        """The other sources whose topic none of ours has, each topic once."""
        ours = {one.source.topic for one in self.sources}
        return tuple({one.source.topic: one for one in others if one.source.topic not in ours}.values())


def _count_skipped(skipped: Skipped) -> None:
    metrics.FIELDS_SKIPPED.labels(skipped.reason).inc()
