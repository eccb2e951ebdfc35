"""Which alerts a rule must have raised, by what was acknowledged; and whether the system has each once. Pure;
imports nothing of the product. Times are whole microseconds since the epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Episode = tuple[int, int, int | None]
"""since, opened, cleared: of the first sample that broke the limit, of the one that opened, of the one that
ended it; None while it lasts.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Above `above` for `lasts`, over below `clear_below`, and nothing for `hold_off` after that."""

    above: float
    clear_below: float
    lasts: int
    hold_off: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """As the gateway shows it. `order`: the work order that it says it became."""

    reference: str
    device: str
    episode: Episode
    state: str
    is_withdrawn: bool
    """A late sample said that it never held."""
    order: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A work order with a reference, as the system has it. `notes`: what was written to it."""

    number: int
    reference: str
    notes: int


def episodes(limit: Limit, log: Mapping[int, float]) -> list[Episode]:
    """Of the whole log of a device, in order."""
    made: list[Episode] = []
    since: int | None = None
    for at in sorted(log):
        value = log[at]
        if made and made[-1][2] is None:
            if value < limit.clear_below:
                made[-1] = (*made[-1][:2], at)
                since = None
            continue
        if value <= limit.above:
            since = None
            continue
        since = at if since is None else since
        rests = made[-1][2] + limit.hold_off if made and made[-1][2] is not None else 0
        if at - since >= limit.lasts and at >= rests:
            made.append((since, at, None))
    return made


def judge_raised(
    limit: Limit, logs: Mapping[str, Mapping[int, float]], alerts: Sequence[Alert], orders: Sequence[Order]
) -> list[str]:
    """What is wrong, each a text."""
    wrong: list[str] = []
    for device in sorted(logs.keys() | {alert.device for alert in alerts}):
        right = episodes(limit, logs.get(device, {}))
        shown = sorted(alert.episode for alert in alerts if alert.device == device and not alert.is_withdrawn)
        wrong += [f"{device}: {episode} is no alert" for episode in right if episode not in shown]
        wrong += [f"{device}: {episode} is one, and never was" for episode in shown if episode not in right]
    times = Counter(order.reference for order in orders)
    wrong += [f"{reference}: {count} work orders" for reference, count in times.items() if count > 1]
    by_reference = {order.reference: order for order in orders}
    known = {alert.reference for alert in alerts}
    wrong += [f"{reference}: a work order of no alert" for reference in times.keys() - known]
    for alert in alerts:
        order = by_reference.get(alert.reference)
        if alert.state != "cleared":
            wrong.append(f"{alert.reference}: is {alert.state} at the end")
        if order is None and (alert.order is not None or not alert.is_withdrawn):
            wrong.append(f"{alert.reference}: no work order")
        if order is not None and order.number != alert.order and times[alert.reference] == 1:
            wrong.append(f"{alert.reference}: is {alert.order}, the work order is {order.number}")
        if order is not None and not order.notes:
            wrong.append(f"{alert.reference}: nothing says at the work order that it is over")
    return wrong
