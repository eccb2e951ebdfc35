"""What a connector may offer beyond delivering readings, first half: listing and making meters, raising an
event once. Reading records back is `gateway.model.inbound`.

Each is a protocol of its own: a connector that offers it has the method, and the engine asks with
`isinstance`. `Capabilities` says the same for the catalogue. Every method raises `ConnectorError` subclasses
only; what the system refuses is returned.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from gateway.model.outcome import Outcome, Rejected

Severity = Literal["low", "medium", "high"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteMeter:
    """A meter as the system has it, or as it should. `meter` is what a mapping writes to reach it."""

    meter: str
    title: str = ""
    unit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventToRaise:
    """What a person at the system should see to. `reference` is ours: at most 20 characters, the same for
    ever for the same event.

    `title` and `text` may be of any length and any characters: the connector cuts them to what the system
    holds. `kind`: which of the manifest's `raises` it becomes; the first one where it is empty.
    """

    reference: str
    title: str
    text: str
    meter: str
    at: datetime
    severity: Severity = "medium"
    kind: str = ""


@runtime_checkable
class ListsMeters(Protocol):
    """A connector that can discover the system's meters."""

    def meters(self) -> AsyncIterator[RemoteMeter]:
        """Every meter that the credential may see, page by page; stop reading to stop asking."""
        ...


@runtime_checkable
class EnsuresMeters(Protocol):
    """A connector that can make a meter."""

    async def ensure_meter(self, wanted: RemoteMeter) -> RemoteMeter | Rejected:
        """The system's meter for `wanted.meter`, made where it is missing. Idempotent: asking twice makes
        one.

        Rejected with the system's words where it refuses; BadConfiguration where the settings do not say what
        a new meter needs.
        """
        ...


@runtime_checkable
class RaisesEvents(Protocol):
    """A connector that can raise a notification, a work order, an alert."""

    async def raise_event(self, event: EventToRaise) -> Outcome:
        """Raises it unless the system already holds one with its reference: Accepted, or Duplicate, each with
        the system's id.

        Rejected and Retry as for readings. OutcomeUnknown is raised when no answer came: call again, the
        reference is looked up first.
        """
        ...
