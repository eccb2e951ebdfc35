"""What the engine needs of a connection: its connector, its rules, its rhythm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from gateway.model.alert_rule import AlertRule
from gateway.model.calendar import Calendar
from gateway.model.connector import Connector
from gateway.model.inbound import InboundStream
from gateway.model.meter import MeterRule


class MetersChanged(Exception):
    """The link's rules are not those in force (any more, or yet): the transaction was rolled back, and a run
    with the right ones follows.
    """


class CallsEnded(Exception):
    """The connection may not call its system any more, as one that somebody has paused since the run began:
    what is stored stays, and nothing more is asked or sent.
    """


class MetersGrow(Exception):
    """There are meters to add: the transaction was rolled back, and is to begin again with the connection's
    row, as every change of a connection does.
    """


READINGS = "readings"
"""The outbound stream of every connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedConnection:
    """A connection that this replica can serve."""

    connection: str
    customer: str
    system: str
    connector: Connector
    rules: tuple[MeterRule, ...]
    interval: timedelta
    lateness: timedelta
    initial_days: int
    configuration: int = 0
    """Of the connection, as it was when this was built: a run maps by its rules only while they are in force.
    """
    generation: int = 0
    """Of the credential that the connector uses: news of an older one move nothing."""
    host: str = ""
    """Of the system, for breakers and incidents."""
    title: str = ""
    """Of the system, for people."""
    page: str = ""
    """The connection's own, where people see to it."""
    alerts: tuple[AlertRule, ...] = ()
    """The rules of this configuration; those in force are stored."""
    raises: Mapping[str, str | None] = field(default_factory=dict)
    """What an alert can become, each with the stream in which it is followed."""
    inbound: tuple[InboundStream, ...] = ()
    """The streams of records that are read."""
    pull_interval: timedelta = timedelta(minutes=5)
    reconcile: timedelta = timedelta(days=1)

    @property
    def calendars(self) -> list[Calendar]:
        """Those that its meters have windows of."""
        return [rule.every for rule in self.rules if isinstance(rule.every, Calendar)]
