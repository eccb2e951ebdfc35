"""`/`: every connection that whoever is logged in may see, those that need a person first or by a column, a
page at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from gateway import clock
from gateway.http import cursors
from gateway.http.auth import Serving
from gateway.http.dashboard.charts import SPARK_HOURS, spark
from gateway.http.dashboard.rendering import is_refreshing, refreshed, render, rendered
from gateway.http.dashboard.sessions import LoggedIn
from gateway.http.dashboard.sorting import Sorting, sorting
from gateway.http.services import Services
from gateway.http.shared import Part
from gateway.model.connection import State
from gateway.model.status import NEEDS_PERSON, URGENCY
from gateway.store.issues import Issue
from gateway.store.listing import BEGINNING, COLUMNS, Filter, ListPlace, Order
from gateway.store.views import MAX_SILENT, Views

router = APIRouter(include_in_schema=False)

PAGE_ROWS = 100
MAX_CUSTOMERS = 200
"""That can be chosen from; of more the name is written."""

MAX_NAMED = 20
"""Connections of an incident that are named."""

TITLES = {
    "name": "Name",
    "since": "Since",
    "readings": "Readings, 24 h",
    "lag": "Lag",
    "pending": "Pending",
    "dead_letters": "Dead letters",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What of the list is asked for."""

    customer: str
    state: str
    q: str
    sort: str

    def filter(self, bound: str | None) -> Filter:
        """What that means for whoever is bound to this customer or (None) to none: of another's customer
        nothing. What was disconnected is there for who looks for it, by its state or its name.
        """
        customer = self.customer or bound
        states = URGENCY if _may_see(bound, customer) else ()
        return Filter(
            customer=customer,
            states=[state for state in states if self.shows(state)],
            text=self.q,
        )

    def shows(self, state: State) -> bool:
        """Whether the list has connections of this state."""
        if self.state:
            return state == self.state
        return state is not State.DISCONNECTED or bool(self.q)

    def address(self, **changed: str) -> str:
        """The list with something changed, from its beginning."""
        wanted = {"customer": self.customer, "state": self.state, "q": self.q, "sort": self.sort, **changed}
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
    sort: Annotated[str, Query(max_length=20)] = "",
    after: Annotated[str | None, Query(max_length=cursors.MAX_LENGTH)] = None,
) -> Response:
    """Reads only. An open page that asks again is given what others who see the same connections have got."""
    asking, reader = session.principal, serving.reader
    wanted = Wanted(
        customer=_plain(customer),
        state=_plain(state),
        q=_plain(q),
        sort=sort if sort.removeprefix("-") in TITLES else "",
    )
    part = await serving.live.parts.get(
        asking.customer,
        ("overview", wanted, after),
        lambda: _part(serving, asking.customer, wanted, after),
        anew=not is_refreshing(request),
    )
    if is_refreshing(request):
        return refreshed(request, part)
    customers = [asking.customer] if asking.customer else await reader.customers(limit=MAX_CUSTOMERS + 1)
    return render(
        request,
        "overview.html",
        session=session,
        wanted=wanted,
        sort=_order(wanted),
        customers=customers,
        has_many_customers=len(customers) > MAX_CUSTOMERS,
        part=part,
    )


async def _part(serving: Services, bound: str | None, wanted: Wanted, after: str | None) -> Part:
    """What is kept fresh, for everybody who is bound to this customer or (None) to none."""
    reader, at, order, listed = serving.reader, clock.now(), _order(wanted), wanted.filter(bound)
    names, next_ = await _listed(reader, listed, order, after, now=at)
    found = {status.connection: status for status in await reader.status(names)}
    hours = await reader.hours(names, since=at - timedelta(hours=SPARK_HOURS))
    total, counts = await _counted(reader, listed, bound)
    html = rendered(
        "_overview.html",
        bound=bound,
        wanted=wanted,
        rows=[found[name] for name in names if name in found],
        issues=await _issues(reader, names),
        sparks={name: spark(hours.get(name, ()), now=at) for name in names},
        total=sum(number for state, number in total.items() if state != State.DISCONNECTED),
        disconnected=total.get(State.DISCONNECTED, 0),
        waiting=sum(total.get(state, 0) for state in NEEDS_PERSON),
        totals=await reader.totals(bound, hour=at.replace(minute=0, second=0, microsecond=0)),
        max_silent=MAX_SILENT,
        found=sum(counts.get(each, 0) for each in listed.states),
        is_first=after is None,
        next=next_,
        sort=order,
        counts=_by_urgency(counts),
        max_named=MAX_NAMED,
        credits=await serving.credits.total(bound),
        incidents=await serving.incidents.incidents(bound, closed=False, after=None, limit=20),
    )
    return Part(at=at, html=html)


def _order(wanted: Wanted) -> Sorting:
    return sorting(
        wanted.sort, TITLES, lambda text: wanted.address(sort=text), greatest_first=set(TITLES) - {"name"}
    )


def _by_urgency(counts: Mapping[str, int]) -> list[tuple[State, int]]:
    return [(state, counts[state]) for state in URGENCY if counts.get(state)]


async def _issues(reader: Views, names: Sequence[str]) -> Mapping[str, Sequence[Issue]]:
    found: dict[str, list[Issue]] = {}
    for issue in await reader.issues(names):
        found.setdefault(issue.connection, []).append(issue)
    return found


async def _counted(
    reader: Views, listed: Filter, bound: str | None
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """By state: what whoever asks may see, and of that what fits; counted once where nothing is left out."""
    total = await reader.counts(Filter(customer=bound))
    if (listed.customer, listed.text) == (bound, ""):
        return total, total
    return total, (await reader.counts(listed)) if _may_see(bound, listed.customer) else {}


async def _listed(
    reader: Views, listed: Filter, order: Sorting, after: str | None, *, now: datetime
) -> tuple[list[str], str | None]:
    """The connections of the page, and where the next one begins; None where there is none."""
    column = next((column for column in COLUMNS if column == order.column), None)
    if column is not None:
        wanted = Order(column=column, descending=order.descending, since=now - timedelta(hours=SPARK_HOURS))
        sorted_ = await reader.sorted_list(
            listed, wanted, after=cursors.sorted_place(after), limit=PAGE_ROWS + 1
        )
        further = cursors.of_place(sorted_[PAGE_ROWS - 1]) if len(sorted_) > PAGE_ROWS else None
        return [place.id for place in sorted_[:PAGE_ROWS]], further
    start = cursors.number_and_texts(after, (BEGINNING.state, BEGINNING.customer, BEGINNING.connection))
    places = await reader.listed(
        listed, after=ListPlace(state=start[0], customer=start[1], connection=start[2]), limit=PAGE_ROWS + 1
    )
    last = places[PAGE_ROWS - 1] if len(places) > PAGE_ROWS else None
    further = None if last is None else cursors.write(last.state, last.customer, last.connection)
    return [place.connection for place in places[:PAGE_ROWS]], further


def _may_see(bound: str | None, customer: str | None) -> bool:
    return bound is None or bound == customer


def _plain(text: str) -> str:
    return text.replace("\0", "")  # PostgreSQL takes none
