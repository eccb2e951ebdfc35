"""What a broker carries: what the sources take, what a preset would take, and for what is left a proposal
(`gateway.ingest.proposal`). Pure: who listens hands the messages in.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.ingest.decode import Decoder
from gateway.ingest.proposal import HeardMessage, MessageGroup, alike, propose
from gateway.model.errors import DecodeError
from gateway.model.sample import to_microseconds
from gateway.payloads import presets
from gateway.payloads.formats.values import WAITS_FOR_BIRTH, Reason
from gateway.payloads.presets import Preset
from gateway.payloads.sources import CompiledSource, compile_one, compile_sources
from gateway.settings import TelemetrySettings
from gateway.source_settings import SourceSettings

__all__ = ["WAITS_FOR_BIRTH", "Discovery", "discover", "needed"]

MAX_PREFIX_LEVELS = 3
"""Levels before the topics of a preset that are tried."""

PLACEHOLDER = "CUSTOMER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """`taken`: by the sources of the configuration. `known`: by a preset. `beside`: what devices of a preset
    that is used, or proposed, tell beside their telemetry. `unknown`: by the source that is proposed, if one
    is. `alike`: names of devices that differ in case only.
    """

    taken: Sequence[MessageGroup]
    refused: Sequence[MessageGroup]
    known: Sequence[MessageGroup]
    beside: Sequence[MessageGroup]
    unknown: Sequence[MessageGroup]
    alike: Sequence[tuple[str, str]]


def discover(
    heard: Iterable[HeardMessage],
    *,
    telemetry: TelemetrySettings,
    customers: Collection[str],
    customer: str | None,
    now: datetime,
) -> Discovery:
    """`customer`: whose the fleet is; a placeholder stands in the proposal where nobody said it."""
    whose = customer or (next(iter(customers)) if len(customers) == 1 else PLACEHOLDER)
    ours = _Ours(telemetry, customers, now)
    left = [message for message in heard if not ours.takes(message)]
    known = _Known(telemetry, whose, now)
    used = {(source.preset, source.prefix) for source in telemetry.sources if source.preset is not None}
    rest, beside = _set_apart(known.sort(left, used), used | known.groups.keys())
    unknown = [propose(messages, whose) for messages in alike(rest)]
    return Discovery(
        taken=_ranked(ours.taken.values()),
        refused=_ranked(ours.refused.values()),
        known=_ranked(known.groups.values()),
        beside=_ranked(beside),
        unknown=sorted(_ranked(unknown), key=_freedom),
        alike=_same_but_for_case(ours.devices),
    )


class _Ours:
    """The sources of the configuration."""

    def __init__(self, telemetry: TelemetrySettings, customers: Collection[str], now: datetime) -> None:
        self._decoder = Decoder(telemetry, compile_sources(telemetry.sources), customers)
        self._now = to_microseconds(now)
        self.taken: dict[str, MessageGroup] = {}
        self.refused: dict[str, MessageGroup] = {}
        self.devices: set[str] = set()

    def takes(self, message: HeardMessage) -> bool:
        """Whether a source has its topic. A topic of a customer that is not listed is nobody's."""
        source = self._decoder.source_of(message.topic)
        if source is None:
            return False
        title = source.source.topic
        try:
            rows = self._decoder.decode(
                message.topic, message.payload, self._now, is_retained=message.is_retained
            )
        except DecodeError as error:
            if error.reason == Reason.UNKNOWN_CUSTOMER:
                return False
            if error.reason in WAITS_FOR_BIRTH:  # it was not heard; the gateway would ask for it
                self.taken.setdefault(title, MessageGroup(title=title)).add(message.topic)
                return True
            group = self.refused.setdefault(
                f"{title} {error.reason}",
                MessageGroup(title=title, problem=f"{error.reason}: {error.detail}"),
            )
        else:
            self.devices.update(row[1] for row in rows)
            group = self.taken.setdefault(title, MessageGroup(title=title))
        group.add(message.topic)
        return True


class _Known:
    """Presets, each tried on what is left; one that takes the most messages goes first."""

    def __init__(self, telemetry: TelemetrySettings, customer: str, now: datetime) -> None:
        self._telemetry = telemetry
        self._customer = customer
        self._now = to_microseconds(now)
        self._compiled: dict[tuple[str, str], tuple[CompiledSource, ...]] = {}
        self.groups: dict[tuple[str, str], MessageGroup] = {}

    def sort(self, messages: Sequence[HeardMessage], used: Collection[tuple[str, str]]) -> list[HeardMessage]:
        """Those that no preset takes. `used`: presets of the configuration, with their prefixes."""
        fits: list[tuple[HeardMessage, set[tuple[str, str]]]] = [
            (one, self._fitting(one)) for one in messages
        ]
        votes = Counter(choice for _, choices in fits for choice in choices)
        met = votes.keys() | used
        left = []
        for message, choices in fits:
            if not choices or self._is_beside(message, choices, met):
                left.append(message)
                continue
            name, prefix = max(choices, key=lambda choice: (self._literals(choice), votes[choice], choice))
            group = self.groups.get((name, prefix))
            if group is None:
                lines: dict[str, object] = {"preset": name, "customer": self._customer}
                if prefix:
                    lines["prefix"] = prefix
                lines |= needed(name, zone="ZONE", device="DEVICE")
                group = self.groups[name, prefix] = MessageGroup(title=_preset(name).title, source=lines)
            group.add(message.topic)
        return left

    def _is_beside(
        self, message: HeardMessage, choices: set[tuple[str, str]], others: Collection[tuple[str, str]]
    ) -> bool:
        """Whether devices of another preset, of which there are some, tell it beside their telemetry, and
        that preset spells out more of its topics than any that would take it.
        """
        surest = max(map(self._literals, choices))
        return any(
            self._literals(other) > surest and _preset(other[0]).is_beside(message.topic, other[1])
            for other in others
        )

    def _fitting(self, message: HeardMessage) -> set[tuple[str, str]]:
        levels = message.topic.split("/")
        found = set()
        for name in presets.names():
            for count in range(min(MAX_PREFIX_LEVELS, len(levels) - 1) + 1):
                prefix = "".join(f"{level}/" for level in levels[:count])
                if self._fits(name, prefix, message):
                    found.add((name, prefix))
                    break
        return found

    def _fits(self, name: str, prefix: str, message: HeardMessage) -> bool:
        if "{" in prefix or "}" in prefix or any(character in prefix for character in "+#\0"):
            return False
        compiled = self._sources(name, prefix)
        decoder = Decoder(self._telemetry, compiled, [self._customer])
        if decoder.source_of(message.topic) is None:
            return False
        try:
            decoder.decode(message.topic, message.payload, self._now)
        except DecodeError as error:
            if error.reason in WAITS_FOR_BIRTH:
                return True
            # a message may be late or spoiled and still be of its fleet: the topic alone tells where it has
            # literals
            return self._literals((name, prefix)) > 1 and error.reason in (
                Reason.TIMESTAMP_TOO_OLD,
                Reason.TIMESTAMP_IN_FUTURE,
                Reason.NULL,
            )
        return True

    def _sources(self, name: str, prefix: str) -> tuple[CompiledSource, ...]:
        if (name, prefix) not in self._compiled:
            given = {
                "preset": name,
                "customer": self._customer,
                "prefix": prefix,
                **needed(name, zone="UTC", device="DEVICE"),
            }
            self._compiled[name, prefix] = compile_one(SourceSettings.model_validate(given))
        return self._compiled[name, prefix]

    def _literals(self, choice: tuple[str, str]) -> int:
        """How much of its topics a preset spells out: the more, the surer it is."""
        own = [one.source for one in self._sources(choice[0], "")]
        return max(sum(level.literal is not None for level in source.levels) for source in own)


def _preset(name: str) -> Preset:
    preset = presets.find_preset(name)
    assert preset is not None  # of a source that compiles, or of the package's list
    return preset


def needed(name: str, *, zone: str, device: str) -> dict[str, object]:
    """What a preset cannot know, and a person has to put in beside its name."""
    preset = _preset(name)
    wanted: dict[str, object] = {}
    if preset.needs_zone:
        wanted["time"] = {"zone": zone}
    if any(
        source.device is None and "{device" not in (source.topic or "") and source.format != "sparkplug_b"
        for source in preset.sources
    ):
        wanted["device"] = device
    return wanted


def _set_apart(
    messages: Sequence[HeardMessage], chosen: Collection[tuple[str, str]]
) -> tuple[list[HeardMessage], list[MessageGroup]]:
    """Those that nobody knows, and those that devices of the chosen presets tell beside their telemetry."""
    groups: dict[str, MessageGroup] = {}
    rest = []
    for message in messages:
        for name, prefix in chosen:
            if _preset(name).is_beside(message.topic, prefix):
                groups.setdefault(name, MessageGroup(title=_preset(name).title)).add(message.topic)
                break
        else:
            rest.append(message)
    return rest, list(groups.values())


def _same_but_for_case(names: Iterable[str]) -> list[tuple[str, str]]:
    by_lower: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        by_lower[name.lower()].append(name)
    return [(same[0], same[1]) for same in by_lower.values() if len(same) > 1]


def _freedom(group: MessageGroup) -> int:
    """How many fields its topic has: of two sources that match the first takes the
    message, so these go last.
    """
    return group.title.count("{")


def _ranked(groups: Iterable[MessageGroup]) -> list[MessageGroup]:
    return sorted(groups, key=lambda group: (-group.messages, group.title))
