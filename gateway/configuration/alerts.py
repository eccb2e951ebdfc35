"""Alert rules of one connection: from what is written to the model, and what only the system can tell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gateway.alert_settings import AlertSettings
from gateway.configuration.document import LocatedDocument
from gateway.configuration.fault import ConfigurationFault, KeyPath, did_you_mean
from gateway.model.alert_rule import (
    PLACEHOLDERS,
    Above,
    AlertRule,
    Below,
    Changes,
    Condition,
    Equals,
    Outside,
    Silent,
)
from gateway.model.connector import Manifest
from gateway.model.topics import IDENTIFIER

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def alerts_of(
    alerts: Sequence[AlertSettings],
    manifest: Manifest,
    document: LocatedDocument,
    base: KeyPath,
    faults: list[ConfigurationFault],
) -> tuple[AlertRule, ...]:
    """Every rule of a connection. `base` is the path of its `alerts`."""
    seen: dict[str, int] = {}
    for index, alert in enumerate(alerts):
        for key, message in _faults(alert, manifest):
            path = (*base, index, key)
            faults.append(ConfigurationFault(place=document.place(path), path=path, message=message))
        if seen.setdefault(alert.id, index) != index:
            path = (*base, index, "id")
            message = (
                f"{alert.id!r} is already the alert at {document.place((*base, seen[alert.id]))}; ids are"
                " unique in a connection"
            )
            faults.append(ConfigurationFault(place=document.place(path), path=path, message=message))
    return tuple(rule_of(alert) for alert in alerts)


def rule_of(alert: AlertSettings) -> AlertRule:
    """The rule as the judge knows it."""
    return AlertRule(
        id=alert.id,
        device=alert.device,
        metric=alert.metric,
        condition=_condition(alert),
        lasts=alert.lasts,
        hold_off=alert.hold_off,
        kind=alert.kind,
        severity=alert.severity,
        title=alert.title,
        text=alert.text,
    )


def _condition(alert: AlertSettings) -> Condition:
    if alert.above is not None:
        return Above(limit=alert.above, clear=alert.clear_below)
    if alert.below is not None:
        return Below(limit=alert.below, clear=alert.clear_above)
    if alert.outside is not None:
        clear_low, clear_high = alert.clear_inside or alert.outside
        return Outside(
            low=alert.outside[0], high=alert.outside[1], clear_low=clear_low, clear_high=clear_high
        )
    if alert.equals is not None:
        return Equals(value=alert.equals)
    if alert.silent_for is not None:
        return Silent(after=alert.silent_for)
    by = alert.rises_by if alert.rises_by is not None else alert.falls_by
    assert by is not None
    assert alert.within is not None
    return Changes(by=by, within=alert.within, rises=alert.rises_by is not None)


def _faults(alert: AlertSettings, manifest: Manifest) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    raises: Mapping[str, str | None] = manifest.raises
    if not raises:
        found.append(
            (
                "raise",
                (
                    f"{manifest.title} raises nothing: an alert needs a system that takes notifications or"
                    " work orders"
                ),
            )
        )
    elif alert.kind not in raises:
        kinds = ", ".join(sorted(raises))
        found.append(
            (
                "raise",
                (
                    f"{manifest.title} does not raise {alert.kind!r}{did_you_mean(alert.kind, raises)}; it"
                    f" raises {kinds}"
                ),
            )
        )
    for key in ("title", "text"):
        names = set(_PLACEHOLDER.findall(getattr(alert, key))) - set(PLACEHOLDERS)
        found += [
            (key, f"unknown placeholder {{{name}}}{did_you_mean(name, PLACEHOLDERS)}")
            for name in sorted(names)
        ]
    literal = re.sub(r"\[[^\]]*\]|[*?]", "a", alert.device)
    if not IDENTIFIER.fullmatch(literal):
        found.append(
            (
                "device",
                (
                    f"no device can have the id {alert.device!r}: letters, digits and . _ -, at most 64, the"
                    " first a letter or digit"
                ),
            )
        )
    return found
