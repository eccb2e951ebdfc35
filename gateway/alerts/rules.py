"""What begins and ends with a connection's rules: in the transaction that changes them."""

from __future__ import annotations

from gateway.alerts import life
from gateway.model.alert_life import AlertTrigger
from gateway.model.alert_rule import Silent
from gateway.model.alerts import RuleState
from gateway.store import alert_streams, judgements, mappings
from gateway.store import alerts as store
from gateway.store.pool import Connection
from gateway.sync.link import ServedConnection


async def begin(connection: Connection, link: ServedConnection) -> None:
    """Brings the rules in force in line with the link's. Alerts of rules that were removed, or that judge
    otherwise now, are over. Silence of devices that are known counts from now.
    """
    removed, changed = await alert_streams.begin(
        connection, link.connection, link.customer, link.alerts, configuration=link.configuration
    )
    await life.end(connection, [*removed, *changed])
    silent = [rule for rule in link.alerts if isinstance(rule.condition, Silent)]
    if not silent:
        return
    known = await mappings.devices(connection, link.customer)
    waiting = [
        (rule.id, device, RuleState(), rule.condition.after.total_seconds())
        for rule in silent
        if isinstance(rule.condition, Silent)
        for device in known
        if rule.matches(device)
    ]
    await judgements.expect(connection, link.connection, waiting)


async def disconnect(connection: Connection, connection_id: str) -> None:
    """Of a connection that ends for good: every alert is over, whatever the system was asked last."""
    for alert in await store.end(connection, connection_id, None, why="disconnected"):
        moved = await life.settle(connection, alert)
        await life.move(connection, moved, AlertTrigger.ENDED)
    await alert_streams.clear(connection, connection_id)
