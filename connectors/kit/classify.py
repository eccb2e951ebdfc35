"""The error table of HTTP systems, as data: what a status means for the connection, and how long to wait."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    Unavailable,
)


class Meaning(enum.Enum):
    """What becomes of a call that was not answered with 2xx."""

    UNAVAILABLE = "unavailable"
    MAYBE_DONE = "maybe_done"
    RATE_LIMITED = "rate_limited"
    AUTH_REFUSED = "auth_refused"
    PERMISSION_DENIED = "permission_denied"
    BAD_CONFIGURATION = "bad_configuration"


# 503 and the 4xx here are refusals: nothing was done. Any other 5xx may follow the work itself, so for a call
# that is not idempotent its outcome is unknown. A redirect is never followed: see `redirected`.
STATUS: Mapping[int, Meaning] = {
    401: Meaning.AUTH_REFUSED,
    402: Meaning.PERMISSION_DENIED,
    403: Meaning.PERMISSION_DENIED,
    404: Meaning.BAD_CONFIGURATION,
    405: Meaning.BAD_CONFIGURATION,
    407: Meaning.BAD_CONFIGURATION,
    408: Meaning.UNAVAILABLE,
    410: Meaning.BAD_CONFIGURATION,
    425: Meaning.UNAVAILABLE,
    429: Meaning.RATE_LIMITED,
    451: Meaning.PERMISSION_DENIED,
    501: Meaning.BAD_CONFIGURATION,
    503: Meaning.UNAVAILABLE,
}
_CLASS: Mapping[int, Meaning] = {
    1: Meaning.MAYBE_DONE,
    4: Meaning.BAD_CONFIGURATION,
    5: Meaning.MAYBE_DONE,
}
DEFAULT_RETRY_AFTER_SECONDS = 60.0
MAX_WHOLE_NUMBER = 10**15
MAX_DATE_LENGTH = 100
CLOCK_YEARS = range(2020, 2200)
_LOGIN_PAGE = re.compile(
    rb"""<input[^>]{0,500}\btype\s*=\s*["']?password\b"""
    rb"""|name\s*=\s*["']?(?:SAMLRequest|SAMLResponse|RelayState|wresult)\b"""
    rb"""|<title[^>]{0,100}>[^<]{0,200}\b(?:log|sign)[\s-]?(?:in|on)\b""",
    re.IGNORECASE,
)


_MOVED = (301, 308)
_LOGIN_PLACE = re.compile(
    r"(?:log|sign)[-_]?(?:in|on)(?!fo)|authori[sz]|authenticat|oauth|openid|saml"
    r"|\b(?:auth|sso|idp|adfs|oidc)\b",
    re.IGNORECASE,
)


def redirected(status: int, location: str) -> Meaning:
    """Of a status of 3xx. Only what leads to a login says something of the credential: a system may also send
    its callers to a page of its maintenance.
    """
    if _LOGIN_PLACE.search(location[:2000]):
        return Meaning.AUTH_REFUSED
    return Meaning.BAD_CONFIGURATION if status in _MOVED else Meaning.MAYBE_DONE


def meaning(status: int, *, has_retry_after: bool, location: str = "") -> Meaning:
    """Of a status that is not 2xx. `location`: where the answer leads, of a redirect."""
    if status // 100 == 3:
        return redirected(status, location)
    if status == 503 and has_retry_after:
        return Meaning.RATE_LIMITED
    return STATUS.get(status) or _CLASS.get(status // 100, Meaning.MAYBE_DONE)


def to_error(
    status: int,
    message: str,
    *,
    idempotent: bool,
    retry_after: float | None,
    request_id: str | None,
    location: str = "",
) -> ConnectorError:
    """The error for a status that is not 2xx. `retry_after` in seconds, as the system asked for it.
    `location`: where a redirect leads.
    """
    match meaning(status, has_retry_after=retry_after is not None, location=location):
        case Meaning.RATE_LIMITED:
            return RateLimited(
                message,
                retry_after=DEFAULT_RETRY_AFTER_SECONDS if retry_after is None else retry_after,
                request_id=request_id,
            )
        case Meaning.AUTH_REFUSED:
            return AuthRefused(message, doubtful=status != 401, request_id=request_id)
        case Meaning.PERMISSION_DENIED:
            return PermissionDenied(message, request_id=request_id)
        case Meaning.BAD_CONFIGURATION:
            return BadConfiguration(message, request_id=request_id)
        case Meaning.UNAVAILABLE:
            return Unavailable(message, retry_after=retry_after, request_id=request_id)
        case Meaning.MAYBE_DONE:
            return unanswered(message, idempotent=idempotent, retry_after=retry_after, request_id=request_id)


def unanswered(
    message: str, *, idempotent: bool, retry_after: float | None = None, request_id: str | None = None
) -> Unavailable:
    """The request was sent and no definite answer came: unknown, unless asking again is harmless."""
    kind = Unavailable if idempotent else OutcomeUnknown
    return kind(message, retry_after=retry_after, request_id=request_id)


def asks_for_login(page: bytes) -> bool:
    """Whether a web page wants somebody to log in: a field for a password, a form on its way to an identity
    provider, or a title that says so.

    Any other page is what proxies show while a system is away: transient, whatever its status.
    """
    return _LOGIN_PAGE.search(page[:200_000]) is not None


def parse_retry_after(value: str | None, *, answered_at: datetime | None) -> float | None:
    """Seconds of a Retry-After, either form: finite and never negative, however far they are. A date counts
    from the answer's own Date, so that no clock of ours matters.

    None when absent or not understood, or for a date in an answer without one. Source: RFC 9110, 10.2.3.
    """
    if value is None:
        return None
    if (seconds := whole_number(value)) is not None:
        return float(seconds)
    at = parse_date(value)
    if at is None or answered_at is None:
        return None
    return max(0.0, (at - answered_at).total_seconds())


def whole_number(text: str) -> int | None:
    """Digits of a header's value, MAX_WHOLE_NUMBER at most; None for anything else, a
    sign or a fraction too.
    """
    digits = text.strip(" \t")
    if not (digits.isascii() and digits.isdigit()):
        return None
    digits = digits.lstrip("0")
    return MAX_WHOLE_NUMBER if len(digits) > 15 else int(digits or "0")


def parse_date(value: str | None) -> datetime | None:
    """Aware UTC of an HTTP date; None for anything else, and for a time that UTC cannot say."""
    if value is None or len(value) > MAX_DATE_LENGTH:
        return None
    try:
        at = parsedate_to_datetime(value)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError, TypeError, IndexError):  # the parser of mails meets odd texts so
        return None


def parse_clock(value: str | None) -> datetime | None:
    """A system's own clock, of its Date; None for one that no clock shows."""
    at = parse_date(value)
    return at if at is not None and at.year in CLOCK_YEARS else None
