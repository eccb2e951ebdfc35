"""What of a configuration takes effect while the daemon runs, and what waits for its next start."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.configuration import sources
from gateway.configuration.document import LocatedDocument
from gateway.configuration.fault import Faults
from gateway.quota_settings import QuotasSettings
from gateway.settings import Settings
from gateway.settings_base import Section

RELOADED = frozenset(
    {
        "customers",
        "telemetry.sources",
        "connections_file",
        "logging.level",
        "logging.format",
        *(f"quotas.{name}" for name in QuotasSettings.model_fields),
    }
)
"""Settings that a reload puts in force; the files of connections are read again beside them."""


def reloaded(running: Settings, read: Settings) -> Settings:
    """What is in force after a reload: of `read` the settings of RELOADED, all others as they run. Raises
    Faults where the two do not go together.
    """
    found = running.model_copy(
        update={
            "customers": read.customers,
            "quotas": read.quotas,
            "telemetry": running.telemetry.model_copy(update={"sources": read.telemetry.sources}),
            "connections_file": read.connections_file,
            "logging": read.logging,
        }
    )
    if faults := sources.faults_of(found, LocatedDocument("with the settings that run until a restart")):
        raise Faults(faults)
    return found


def needing_restart(running: Settings, read: Settings) -> list[str]:
    """The paths of what differs and is left as it runs; never a value."""
    return [path for path in differing(running, read) if path not in RELOADED]


def differing(one: Section, other: Section, prefix: str = "") -> Iterator[str]:
    """The dotted paths of what is not equal."""
    for name in type(one).model_fields:
        mine, its = getattr(one, name), getattr(other, name)
        if isinstance(mine, Section) and isinstance(its, Section):
            yield from differing(mine, its, f"{prefix}{name}.")
        elif mine != its:
            yield prefix + name
