"""`/v1`: one router a resource."""

from __future__ import annotations

from gateway.http.api import (
    alerts,
    connect_links,
    connections,
    devices,
    doctor,
    events,
    history,
    incidents,
    messages,
    quotas,
    records,
    systems,
    webhooks,
)
from gateway.http.api import credits as pool

ROUTERS = (
    systems.router,
    connections.router,
    connect_links.router,
    history.router,
    alerts.router,
    records.router,
    devices.router,
    messages.router,
    quotas.router,
    events.router,
    pool.router,
    incidents.router,
    webhooks.router,
    doctor.router,
)
