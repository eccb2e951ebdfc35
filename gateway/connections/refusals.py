"""What a request about a connection is refused with, by its state or by what its system answered."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.model.connection import State
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    PermissionDenied,
    RateLimited,
    RequestRefused,
    Unavailable,
)

NEEDS_CREDENTIAL = (State.PENDING, State.REAUTHORIZATION_REQUIRED)
_REFUSALS: Mapping[State, tuple[str, str]] = {
    State.PENDING: ("connection.pending", "it waits for credentials: give them first"),
    State.VERIFYING: ("connection.pending", "its credential is being verified: try again in a moment"),
    State.REAUTHORIZATION_REQUIRED: (
        "connection.reauthorization_required",
        "the system refuses its credential: new credentials are required",
    ),
    State.BLOCKED: ("connection.blocked", "the system does not allow what it has to do: see its issue"),
    State.PAUSED: ("connection.paused", "it is paused: resume it first"),
    State.DISCONNECTING: ("connection.disconnected", "it is being disconnected, which cannot be undone"),
    State.DISCONNECTED: ("connection.disconnected", "it was disconnected, which cannot be undone"),
    State.ACTIVE: ("request.conflict", "it is active"),
    State.DEGRADED: ("request.conflict", "it is active, and its system fails at the moment"),
}


def refusal(connection_id: str, state: State) -> RequestRefused:
    """Of what this state does not allow."""
    code, words = _REFUSALS[state]
    return RequestRefused(code, f"connection {connection_id!r}: {words}", connection=connection_id)


def upstream(connection_id: str, error: ConnectorError) -> RequestRefused:
    """Of what a system's answer means for whoever asked: never that their own token is refused."""
    match error:
        case RateLimited(retry_after=seconds):
            return RequestRefused(
                "upstream.rate_limited", str(error), connection=connection_id, retry_after=seconds
            )
        case Unavailable(retry_after=seconds):
            return RequestRefused(
                "upstream.unavailable", str(error), connection=connection_id, retry_after=seconds
            )
        case AuthRefused(doubtful=True):  # a page, which an outage may show
            return RequestRefused("upstream.unavailable", str(error), connection=connection_id)
        case AuthRefused():
            return RequestRefused("connection.reauthorization_required", str(error), connection=connection_id)
        case PermissionDenied() | BadConfiguration():
            return RequestRefused("connection.blocked", str(error), connection=connection_id)
        case _:
            return RequestRefused("upstream.error", str(error), connection=connection_id)
