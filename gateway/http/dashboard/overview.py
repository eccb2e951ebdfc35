"""`/`: every connection that whoever is logged in may see, those that need a person first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from gateway.http.auth import Serving
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.model.connection import State
from gateway.model.status import ConnectionStatus
from gateway.store.issues import Issue

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 100
URGENCY = (
    State.REAUTHORIZATION_REQUIRED,
    State.BLOCKED,
    State.PENDING,
    State.DEGRADED,
    State.VERIFYING,
    State.PAUSED,
    State.DISCONNECTING,
    State.ACTIVE,
    State.DISCONNECTED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What of the list is wanted."""

    customer: str
    state: str
    q: str

    def shows(self, status: ConnectionStatus, *, any_state: bool = False) -> bool:
        """Whether a connection is in the list."""
        if not any_state and self.state not in ("", status.state):
            return False
        text = f"{status.connection} {status.customer} {status.system}".lower()
        return self.customer in ("", status.customer) and self.q.lower() in text

    def address(self, **changed: str | int) -> str:
        """The list with something changed."""
        wanted = {"customer": self.customer, "state": self.state, "q": self.q, **changed}
        query = urlencode({name: value for name, value in wanted.items() if value not in ("", 1)})
        return f"/?{query}" if query else "/"


@router.get("/")
async def overview(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    customer: str = "",
    state: str = "",
    q: Annotated[str, Query(max_length=100)] = "",
    page: Annotated[int, Query(ge=1, le=10_000)] = 1,
) -> Response:
    """Reads only."""
    asking = session.principal
    wanted = Filter(customer=customer, state=state, q=q)
    visible = [status for status in await serving.reader.status(None) if asking.may_see(status.customer)]
    shown = sorted((status for status in visible if wanted.shows(status)), key=_urgency)
    rows = shown[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    issues: dict[str, list[Issue]] = {}
    for issue in await serving.reader.issues([row.connection for row in rows]):
        issues.setdefault(issue.connection, []).append(issue)
    return render(
        request,
        "overview.html",
        session=session,
        wanted=wanted,
        rows=rows,
        issues=issues,
        total=len(visible),
        found=len(shown),
        page=page,
        pages=-(-len(shown) // PAGE_ROWS),
        counts=_counts(visible, wanted),
        customers=sorted({status.customer for status in visible}),
        credits=await serving.credits.read(asking.customer),
        incidents=await serving.incidents.incidents(asking.customer, closed=False, after=None, limit=20),
    )


def _counts(visible: Sequence[ConnectionStatus], wanted: Filter) -> list[tuple[State, int]]:
    counted = Counter(status.state for status in visible if wanted.shows(status, any_state=True))
    return [(state, counted[state]) for state in URGENCY if counted[state]]


def _urgency(status: ConnectionStatus) -> tuple[int, str, str]:
    return URGENCY.index(status.state), status.customer, status.connection
