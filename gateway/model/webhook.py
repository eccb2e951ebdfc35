"""Webhooks' rules: when to try again, when to stop, how to sign, which events an endpoint may ask for. Pure.

Source: the Standard Webhooks specification, for headers, secrets and signatures.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import hmac
from collections.abc import Iterable
from datetime import datetime, timedelta

WAITS = tuple(
    timedelta(seconds=seconds) for seconds in (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
"""The wait before each attempt. Jitter only lengthens them, so the last attempt comes at the earliest 75 h 35
min after the first.
"""

JITTER = 0.1
DISABLED_AFTER = timedelta(days=5)
BOTH_SECRETS = timedelta(hours=24)
PREFIX = "whsec_"
SECRET_BYTES = 32


class AttemptOutcome(enum.StrEnum):
    """What became of one attempt. A label of a metric."""

    DELIVERED = "delivered"
    REFUSED = "refused"  # answered, not with 2xx
    GONE = "gone"  # answered 410: do not come again
    UNREACHABLE = "unreachable"  # no answer in time
    FORBIDDEN = "forbidden"  # its address is not one that we may call


class Disabled(enum.StrEnum):
    """Why an endpoint gets nothing until it is enabled."""

    GONE = "gone"
    FAILING = "failing"
    OPERATOR = "operator"  # somebody said so


def wait_after(tried: int, *, rand: float) -> timedelta | None:
    """The wait after `tried` attempts of a schedule; None: given up. `rand` is uniform in [0, 1)."""
    return WAITS[tried] * (1.0 + JITTER * rand) if tried < len(WAITS) else None


def verdict(outcome: AttemptOutcome, *, failing_since: datetime, now: datetime) -> Disabled | None:
    """Whether a failed attempt ends it for the endpoint."""
    if outcome is AttemptOutcome.GONE:
        return Disabled.GONE
    return Disabled.FAILING if now - failing_since >= DISABLED_AFTER else None


def new_secret(random_bytes: bytes) -> str:
    """A secret as the receiver enters it."""
    return PREFIX + base64.b64encode(random_bytes).decode()


def signature(secrets: Iterable[str], *, message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header: one signature a secret."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return " ".join(
        f"v1,{base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()}"
        for secret in secrets
    )


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(PREFIX))
