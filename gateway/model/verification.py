"""What a try of settings and credentials came to. Pure; nothing here is secret."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from gateway.model.exchange import RemoteMeter


class Verdict(enum.StrEnum):
    """`refused`: the credential; `denied`: what it may do; `misconfigured`: the settings do not fit the
    system; `busy`: the system asks to wait; `unavailable`: no answer that says anything.
    """

    VERIFIED = "verified"
    REFUSED = "refused"
    DENIED = "denied"
    MISCONFIGURED = "misconfigured"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Readable:
    """Records that the system has. `detail`: why they could not be read; empty where they could."""

    stream: str
    title: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What the system answered. `account`: whose data the credential reaches, where the system says so.
    `meters`: of a system that lists them, the first ones; None where it does not, or would not.
    """

    verdict: Verdict
    detail: str = ""
    account: str | None = None
    records: tuple[Readable, ...] = ()
    meters: tuple[RemoteMeter, ...] | None = None
    meters_detail: str = ""
    request_id: str | None = None
    retry_after: float | None = None

    @property
    def is_good(self) -> bool:
        """Whether a connection made of the same would be active."""
        return self.verdict is Verdict.VERIFIED


def refused_by(error: ConnectorError | TimeoutError) -> Verification:
    """What a probe that failed says, in the system's own words."""
    if isinstance(error, TimeoutError):
        return Verification(
            verdict=Verdict.UNAVAILABLE, detail="the system did not answer in time; check its address"
        )
    verdict, after = Verdict.UNAVAILABLE, None
    match error:
        case AuthRefused(doubtful=False):
            verdict = Verdict.REFUSED
        case PermissionDenied():
            verdict = Verdict.DENIED
        case BadConfiguration():
            verdict = Verdict.MISCONFIGURED
        case RateLimited(retry_after=seconds):
            verdict, after = Verdict.BUSY, seconds
        case Unavailable(retry_after=seconds):
            after = seconds
        case _:
            pass
    return Verification(verdict=verdict, detail=str(error), request_id=error.request_id, retry_after=after)
