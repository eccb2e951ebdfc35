"""`/`: every connection that whoever is logged in may see, those that need a person
first, a page at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from gateway.http import cursors
from gateway.http.auth import Serving
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.model.access import Principal
from gateway.model.connection import State
from gateway.model.status import URGENCY
from gateway.store.issues import Issue
from gateway.store.listing import BEGINNING, Filter, Place

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 100
MAX_CUSTOMERS = 200
"""That can be chosen from; of more the name is written."""

MAX_NAMED = 20
"""Connections of an incident that are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What of the list is asked for."""

    customer: str
    state: str
    q: str

    def filter(self, asking: Principal) -> Filter:
        """What that means for whoever asks: of another's customer nothing."""
        customer = self.customer or asking.customer
        states = URGENCY if asking.may_see(customer) else ()
        return Filter(
            customer=customer,
            states=[state for state in states if self.state in ("", state)],
            text=self.q,
        )

    def address(self, **changed: str) -> str:
        """The list with something changed, from its beginning."""
        wanted = {"customer": self.customer, "state": self.state, "q": self.q, **changed}
        query = urlencode({name: value for name, value in wanted.items() if value})
        return f"/?{query}" if query else "/"


@router.get("/")
async def overview(
    request: Request,
    serving: Serving,
    session: LoggedIn,
    customer: str = "",
    state: str = "",
    q: Annotated[str, Query(max_length=100)] = "",
    after: Annotated[str | None, Query(max_length=1024)] = None,
) -> Response:
    """Reads only."""
    asking, reader = session.principal, serving.reader
    wanted = Wanted(customer=_plain(customer), state=_plain(state), q=_plain(q))
    listed = wanted.filter(asking)
    start = cursors.number_and_texts(after, (BEGINNING.state, BEGINNING.customer, BEGINNING.connection))
    places = await reader.listed(
        listed, after=Place(state=start[0], customer=start[1], connection=start[2]), limit=PAGE_ROWS + 1
    )
    shown = places[:PAGE_ROWS]
    names = [place.connection for place in shown]
    found = {status.connection: status for status in await reader.status(names)}
    issues: dict[str, list[Issue]] = {}
    for issue in await reader.issues(names):
        issues.setdefault(issue.connection, []).append(issue)
    total = await reader.counts(Filter(customer=asking.customer))
    counts = (await reader.counts(listed)) if asking.may_see(listed.customer) else {}
    customers = [asking.customer] if asking.customer else await reader.customers(limit=MAX_CUSTOMERS + 1)
    return render(
        request,
        "overview.html",
        session=session,
        wanted=wanted,
        rows=[found[name] for name in names if name in found],
        issues=issues,
        total=sum(total.values()),
        found=sum(counts.get(each, 0) for each in listed.states),
        is_first=after is None,
        next=_after(shown[-1]) if len(places) > PAGE_ROWS else None,
        counts=_by_urgency(counts),
        customers=customers,
        has_many_customers=len(customers) > MAX_CUSTOMERS,
        max_named=MAX_NAMED,
        credits=await serving.credits.total(asking.customer),
        incidents=await serving.incidents.incidents(asking.customer, closed=False, after=None, limit=20),
    )


def _by_urgency(counts: Mapping[str, int]) -> list[tuple[State, int]]:
    return [(state, counts[state]) for state in URGENCY if counts.get(state)]


def _after(place: Place) -> str:
    return cursors.write(place.state, place.customer, place.connection)


def _plain(text: str) -> str:
    return text.replace("\0", "")  # PostgreSQL takes none
