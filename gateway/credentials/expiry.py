"""Announces once, 7 days ahead and once more 1 day ahead, that a credential or a refresh token ends. It must
not know how it is renewed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import get_args

from cryptography import x509

from gateway.model import bounds
from gateway.model.errors import BadConfiguration
from gateway.model.event import EventType, NewEvent
from gateway.store import credentials, outbox
from gateway.store.credentials import Expiring, Table
from gateway.store.pool import Database

_WHAT: Mapping[Table, str] = {"credential": "credential", "token": "refresh_token"}


def ends_at(type: str, values: Mapping[str, str]) -> datetime | None:
    """When a credential ends: a client certificate says so itself, others where `expires_at` was given (ISO
    8601 with zone). Raises BadConfiguration.
    """
    if type == "client_certificate":
        try:
            chain = x509.load_pem_x509_certificates(values.get("certificate", "").encode())
        except ValueError:
            raise BadConfiguration(
                "credentials.certificate: expected a certificate in PEM, with its chain"
            ) from None
        return min(certificate.not_valid_after_utc for certificate in chain)
    if "expires_at" not in values:
        return None
    at = bounds.parsed_instant(values["expires_at"])
    if at is None:
        raise BadConfiguration(
            "credentials.expires_at: expected a time with its zone, such as 2027-03-01T00:00:00Z"
        )
    return at


async def expiring(database: Database, now: datetime) -> Sequence[Expiring]:
    """Announces what is due, in one transaction with the mark that it was; what was announced. Safe on
    several replicas at once.
    """
    announced: list[Expiring] = []
    async with database.transaction() as connection:
        for table in get_args(Table):
            for found in await credentials.expiring(connection, table, now):
                data = {
                    "credential_type": found.type,
                    "what": _WHAT[table],
                    "expires_at": found.expires_at.isoformat(),
                    "days": found.days,
                }
                event = NewEvent(
                    type=EventType.CONNECTION_CREDENTIAL_EXPIRING,
                    customer=found.customer,
                    connection=found.connection,
                    data=data,
                )
                await outbox.append(connection, event)
                announced.append(found)
    return announced
