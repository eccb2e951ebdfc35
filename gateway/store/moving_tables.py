"""Which tables a customer's rows are in, what becomes of each when the customer moves to another gateway, and
why some rows stay. A test holds it against the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class OwnedBy(StrEnum):
    """How rows say whose they are."""

    CUSTOMER = "customer"
    CONNECTION = "connection"
    EITHER = "either"
    """By the customer, or by one of its connections alone."""
    ENDPOINT = "endpoint"
    """By an endpoint of webhooks that is the customer's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`resets`: columns that mean something at one gateway only, with what they are at another, in SQL.
    `conflict`: what is done with a row that the destination has already. `is_large`: grows with telemetry, so
    that it is not taken aside at the source. `stays`: the source keeps its rows as its own history.
    """

    name: str
    key: OwnedBy
    resets: Mapping[str, str] = field(default_factory=dict)
    conflict: str = "do nothing"
    is_large: bool = False
    stays: bool = False


_FREE = {"lease_owner": "null", "lease_until": "null"}


def _of_customer(name: str, **resets: str) -> Table:
    return Table(name=name, key=OwnedBy.CUSTOMER, resets=resets)


def _of_connection(name: str, **resets: str) -> Table:
    return Table(name=name, key=OwnedBy.CONNECTION, resets=resets)


TABLES = (
    # what came while it was expected is later news of the device, and nothing of its beginning
    Table(
        name="device",
        key=OwnedBy.CUSTOMER,
        conflict=(
            "(customer_id, device_id) do update set revision = excluded.revision, title ="
            " coalesce(device.title, excluded.title), source = coalesce(device.source, excluded.source),"
            " first_seen_at = least(device.first_seen_at, excluded.first_seen_at),"
            " oldest_at = case when device.oldest_at is null or excluded.oldest_at is null then null"
            " else least(device.oldest_at, excluded.oldest_at) end"
        ),
    ),
    # a file declares it elsewhere, if at all; a higher version has its documents told
    _of_customer("connection", managed_by="'api'", version="version + 1"),
    # through the ledger of the destination
    Table(name="connection_credit", key=OwnedBy.CUSTOMER, stays=True),
    _of_connection("connection_audit"),
    _of_connection("stream", **_FREE),
    _of_connection("meter_mapping"),
    _of_connection("matched_metric"),
    _of_connection("due_window"),
    _of_connection("push_intent"),
    _of_connection("delivery_doubt"),
    _of_connection("delivery_clock"),
    _of_connection("sync_run"),
    # runs that are put in force count into it, by a trigger; what was counted is right
    Table(
        name="connection_hour",
        key=OwnedBy.CONNECTION,
        conflict=(
            "(connection_id, hour) do update set delivered = excluded.delivered,"
            " modified = excluded.modified, rejected = excluded.rejected"
        ),
    ),
    _of_connection("connection_trouble"),
    _of_connection("issue"),
    _of_connection("credential"),
    _of_connection("token", **_FREE),
    _of_connection("logon"),
    _of_connection("call_health"),
    _of_connection("reauthorization_link"),
    _of_connection("meter_made"),
    _of_connection("alert_stream", **_FREE),
    _of_connection("alert_rule"),
    _of_connection("alert_judgement"),
    _of_connection("alert", told="null"),  # the destination's topics are its own
    Table(name="dead_letter", key=OwnedBy.EITHER),
    _of_customer("api_token"),
    _of_customer("connect_link"),
    _of_customer("record_log"),
    _of_customer("record_publication"),
    _of_customer("record", retained="false"),
    _of_customer("inbound_stream", **_FREE),
    _of_customer("inbound_count"),
    _of_customer("record_seen"),
    # its clock of listening is the destination's from now on
    _of_customer("device_state", told="0", unheard="{unheard}::float8"),
    _of_customer("device_change"),
    _of_customer("sparkplug_node"),
    _of_customer("sparkplug_device"),
    _of_customer("sparkplug_definitions"),
    _of_customer("webhook_endpoint"),
    # endpoints of the gateway as a whole may still be told of the source's
    Table(name="event", key=OwnedBy.CUSTOMER, resets={"revision": "null"}, stays=True),
    Table(name="webhook_delivery", key=OwnedBy.ENDPOINT, resets={"lease_until": "null"}),
    Table(
        name="customer_day",
        key=OwnedBy.CUSTOMER,
        conflict=(
            "(customer_id, day) do update set reaches = greatest(customer_day.reaches, excluded.reaches),"
            " bytes = greatest(customer_day.bytes, excluded.bytes)"
        ),
        is_large=True,
    ),
    Table(name="telemetry", key=OwnedBy.CUSTOMER, is_large=True),
    Table(
        name="telemetry_dropped",
        key=OwnedBy.CUSTOMER,
        conflict="(customer_id) do update set until = greatest(telemetry_dropped.until, excluded.until)",
    ),
    # what was delivered is of the windows that the source cut
    _of_customer("calendar_window"),
    Table(name="delivery", key=OwnedBy.CONNECTION, is_large=True),
    Table(name="withheld", key=OwnedBy.CONNECTION, is_large=True),
)
"""In the order in which they are put in force: what others refer to comes first."""

SMALL = tuple(table for table in TABLES if not table.is_large)
LARGE = tuple(table for table in TABLES if table.is_large)

SEALED: Mapping[str, tuple[str, ...]] = {
    "credential": ("sealed",),
    "token": ("sealed",),
    "webhook_endpoint": ("secret", "previous_secret"),
    "connect_link": ("sealed",),
}
"""Columns that are sealed, and are sealed anew on the way."""

LEFT: Mapping[str, str] = {
    "customer": "made where the customer is expected",
    "customer_log": "its position goes along in the archive, and the destination's goes on past it",
    "customer_move": "what each gateway knows of the move",
    "customer_mark": "what each gateway has seen of the move",
    "authorization_flow": "a login on a system's page lasts minutes, and is begun again",
    "connect_draft": "what is being entered lasts minutes, and is begun again",
    "login_link": "leads to this gateway's pages, for minutes",
    "dashboard_session": "of this gateway's pages; the token that opened it opens another",
    "kept_count": "kept by triggers of what it counts",
    "count_change": "kept by triggers of what it counts",
    "credit_transfer": "each gateway's own ledger: what returns here is held there",
    "credit_refusal": "when this pool refused last",
    "quota_excess": "what came to this gateway",
    "published_status": "topics of this gateway, which it empties",
    "retained_change": "kept by triggers",
    "retained_issue": "topics of this gateway, which it empties",
    "retained_device": "topics of this gateway, which it empties",
}
"""Tables with a column that says whose a row is, and why nothing of them is copied."""
