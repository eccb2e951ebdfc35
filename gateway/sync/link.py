"""A connection as runs need it: its connector, its rules, and how often it is worked."""

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
    """The rules of the link are not those in force, no more or not yet. The transaction was rolled back; a
    run with the right rules follows.
    """


class CallsEnded(Exception):
    """The connection may not call its system any more: somebody has paused it, say, since the run began. What
    is stored stays, and nothing more is asked or sent.
    """


class MetersGrow(Exception):
    """There are meters to add. The transaction was rolled back, and has to begin again by locking the
    connection's row, as every change of a connection does.
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
    """The number of the configuration that this was built from: a run maps by these rules only while they are
    in force.
    """
    generation: int = 0
    """The generation of the credential that the connector uses: news of an older one change no state."""
    host: str = ""
    """The host of the system, for breakers and incidents."""
    title: str = ""
    """The title of the system, for people."""
    page: str = ""
    """The URL of the connection's page, where people can put it right."""
    alerts: tuple[AlertRule, ...] = ()
    """The alert rules of this configuration. Those in force are stored."""
    raises: Mapping[str, str | None] = field(default_factory=dict)
    """What an alert can become, each with the stream in which it is followed."""
    inbound: tuple[InboundStream, ...] = ()
    """The streams of records that are read."""
    pull_interval: timedelta = timedelta(minutes=5)
    reconcile: timedelta = timedelta(days=1)

    @property
    def calendars(self) -> list[Calendar]:
        """The calendars by which its meters have windows."""
        return [rule.every for rule in self.rules if isinstance(rule.every, Calendar)]
