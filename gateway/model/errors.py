"""The one error tree, arranged by consequence. A library's exception is converted at the edge that imports
the library.
"""

from __future__ import annotations


class FieldgateError(Exception):
    """Base of everything that Fieldgate raises on purpose. The text says what happened, where, and what to
    do.
    """


def fault_of(error: BaseException) -> FieldgateError | None:
    """What to tell of what ended a command: the error, or from a group of them a ConfigError before any
    other. None where something that was not raised on purpose stands alone or beside: it needs its trace.
    """
    if isinstance(error, FieldgateError):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    ours, others = error.split(FieldgateError)
    if ours is None:
        return None
    leaves = [leaf for leaf in map(fault_of, ours.exceptions) if leaf is not None]
    configuration = next((leaf for leaf in leaves if isinstance(leaf, ConfigError)), None)
    return configuration or (leaves[0] if others is None else None)


class ConfigError(FieldgateError):
    """The configuration cannot be used; nothing starts, nothing changes. The command exits with 2."""


class SealBroken(ConfigError):
    """What is stored of a secret cannot be opened: its key is not configured, or it is not where it was
    sealed. The text names the connection.
    """


class DecodeError(FieldgateError):
    """A message cannot become samples: it goes to the dead letters under `reason` and is acknowledged.

    `reason` is one of a small closed set of slugs (`invalid_json`, `timestamp_in_future`, ...): it becomes a
    metric label.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class StoreError(FieldgateError):
    """PostgreSQL could not do what was asked."""


class StoreForbidden(StoreError):
    """PostgreSQL does not let the role of `database.dsn` do what the gateway does."""


class StoreUnavailable(StoreError):
    """PostgreSQL is away or is refusing connections: wait and try again, nothing is lost."""


class StoreRejected(StoreError):
    """PostgreSQL refuses this very data (SQLSTATE class 22 or 23): trying it again cannot help."""


class StoredAlready(StoreRejected):
    """What was to be new is there: a key is taken. Nothing was stored."""


class CustomersLeft(StoreRejected):
    """These customers have moved to another gateway, which takes what they send: nothing was stored, and all
    the rest can be.
    """

    def __init__(self, customers: frozenset[str], detail: str = "") -> None:
        names = ", ".join(sorted(customers))
        super().__init__(
            detail or f"customer {names} has moved to another gateway: `fieldgate customer list` says when"
        )
        self.customers = customers


class TooManyDevices(StoreError):
    """These devices (customer, device) are beyond what their customer may have: nothing was stored, and all
    the rest can be.
    """

    def __init__(self, devices: frozenset[tuple[str, str]]) -> None:
        super().__init__(f"{len(devices)} devices are beyond the quota of their customers")
        self.devices = devices


class LeaseLost(StoreError):
    """Another replica owns what we were working on: the transaction was rolled back, leave it to them."""


class NotExceeded(StoreError):
    """What was over a quota a moment ago is not any more, so that it has to be told anew: nothing was
    stored.
    """


class BrokerRefused(FieldgateError):
    """The broker refuses us for good (credentials, authorisation, protocol): the daemon stops and says so."""


class RequestRefused(FieldgateError):
    """Somebody asked for what cannot be done now. `code` is one of the interface's stable codes
    (`connection.paused`, `credits.insufficient`, ...).
    """

    def __init__(
        self, code: str, message: str, *, connection: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.connection = connection
        self.retry_after = retry_after


class CreditsInsufficient(RequestRefused):
    """A hold of `wanted` credits was refused. `customer`: whose quota has too little left; None where it is
    the pool itself.
    """

    def __init__(self, *, connection: str, customer: str | None, wanted: int, used: int, limit: int) -> None:
        whose = "of the pool" if customer is None else f"that customer {customer} may use"
        advice = "raise credits.capacity" if customer is None else "raise credits.customer_quota"
        text = (
            f"connection {connection} costs {wanted} credits and {used} of the {limit} {whose} are used;"
            f" {advice} or disconnect what is no longer needed"
        )
        super().__init__("credits.insufficient", text, connection=connection)
        self.customer = customer
        self.wanted = wanted
        self.used = used
        self.limit = limit


class ConnectorError(FieldgateError):
    """A connected system could not serve a call. The subclass decides what happens to the connection."""

    def __init__(self, message: str, *, request_id: str | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id


class Unavailable(ConnectorError):
    """Transient: connect, TLS, DNS, time-out, 408, 425, 5xx. Retry with backoff; `retry_after` (seconds) is a
    floor.

    `reference`: of a fault of ours or of the connector, which the log has already. It says nothing about the
    system, so no breaker hears it.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        request_id: str | None = None,
        reference: str | None = None,
    ) -> None:
        super().__init__(message, request_id=request_id)
        self.retry_after = retry_after
        self.reference = reference


class OutcomeUnknown(Unavailable):
    """The request was sent and no definite answer came: the system may have accepted it. Ask it before
    sending again.
    """


class CursorExpired(Unavailable):
    """The system does not know the cursor of a page any more: the interval is read
    again from its beginning.
    """


class RateLimited(ConnectorError):
    """429, or 503 with Retry-After: wait at least `retry_after` seconds. Not an attempt, not a failure."""

    def __init__(self, message: str, *, retry_after: float, request_id: str | None = None) -> None:
        super().__init__(message, request_id=request_id)
        self.retry_after = retry_after


class AuthRefused(ConnectorError):
    """The credential is refused. `final`: it is proved already (invalid_grant, the second failed logon), no
    probe need confirm it.

    `doubtful`: no refusal in so many words, but a page that asks for a login, or a redirect to one. A proxy
    may have said it in an outage, so it proves nothing alone.
    """

    def __init__(
        self, message: str, *, final: bool = False, doubtful: bool = False, request_id: str | None = None
    ) -> None:
        super().__init__(message, request_id=request_id)
        self.final = final
        self.doubtful = doubtful


class PermissionDenied(ConnectorError):
    """The credential is good and is not allowed to do this: needs a person at the system, not a login."""


class BadConfiguration(ConnectorError):
    """The settings do not fit the system (service not found, unknown field): needs the integrator.

    `oauth_client`: our client at the authorization server is refused. It may serve many connections: one
    incident, not a reauthorization of each.
    """

    def __init__(self, message: str, *, oauth_client: bool = False, request_id: str | None = None) -> None:
        super().__init__(message, request_id=request_id)
        self.oauth_client = oauth_client


class PageTooLarge(BadConfiguration):
    """One answer holds more records than are taken: the system was not asked for pages,
    or does not heed it.
    """


class BatchRefused(ConnectorError):
    """The system refused the whole batch without saying which reading is at fault: bisect it."""
