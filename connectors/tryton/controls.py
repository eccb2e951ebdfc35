"""Quality controls of one company or all: listed, remembered for a while, made where that is allowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping

from connectors.kit.bisect import BatchRefusal
from connectors.tryton.mapping import ControlPoint, PointCatalogue, split, to_catalogue, to_points
from connectors.tryton.rest import Rest
from gateway.model.errors import Unavailable
from gateway.model.exchange import RemoteMeter
from gateway.model.outcome import Rejected

CONTROL = "quality.control"
_FIELDS = ("name", "company", "points.name", "points.string", "points.type_")
_PAGE = 500
_FRESH_SECONDS = 300.0
_MIN_SECONDS = 30.0  # an unknown meter causes a new listing at most this often
_MAX_PAGES = 1000


class Controls:
    """What Tryton said of its controls lately."""

    def __init__(self, rest: Rest, *, company: int | None) -> None:
        self._rest = rest
        self._company = company
        self._listed: tuple[float, PointCatalogue] | None = None
        self._listing = asyncio.Lock()

    async def catalogue(self, meters: Collection[str]) -> PointCatalogue:
        """The points; listed again when stale, or when one of `meters` is missing and the list is not brand-
        new.
        """
        async with self._listing:
            if self._listed is not None:
                listed_at, catalogue = self._listed
                age = _monotonic() - listed_at
                if age < _MIN_SECONDS or (
                    age < _FRESH_SECONDS and all(meter in catalogue.points for meter in meters)
                ):
                    return catalogue
            return await self._list()

    async def all(self) -> AsyncIterator[ControlPoint]:
        """Every point that the user may see, page by page."""
        async for row in self._rows():
            for point in to_points(row):
                yield point

    async def ensure(self, wanted: RemoteMeter) -> ControlPoint | Rejected:
        """The point of `wanted.meter`, made with its control where missing; a new one holds numbers."""
        control, name = split(wanted.meter)
        if not control or not name.isidentifier():
            return Rejected(
                code="unknown_meter",
                message=(
                    "a meter at Tryton is written control/point, the point as a plain name, unlike"
                    f" {wanted.meter[:80]!r}"
                ),
            )
        async with self._listing:
            known = await self._list()
            if wanted.meter in known.ambiguous:
                return Rejected(
                    code="ambiguous_meter", message=f"several quality controls have {wanted.meter[:80]!r}"
                )
            if wanted.meter in known.points:
                return known.points[wanted.meter]
            point = {"name": name, "string": (wanted.title or name)[:200], "type_": "float", "digits": 6}
            try:
                await self._make(control, point)
            except BatchRefusal as refusal:
                return Rejected(code=refusal.code, message=str(refusal))
            made = (await self._list()).points.get(wanted.meter)
        if made is None:
            raise Unavailable(f"Tryton took the point {wanted.meter[:80]!r} and does not list it")
        return made

    async def _make(self, control: str, point: Mapping[str, object]) -> None:
        domain: list[object] = [["name", "=", control], *self._domain()]
        existing = await self._rest.search("list_meters", CONTROL, fields=["name"], domain=domain, limit=2)
        points = {"points": [["create", [point]]]}
        if existing:
            number = existing[0].get("id")
            await self._rest.change("create_meter", CONTROL, number if isinstance(number, int) else 0, points)
            return
        record = {"name": control, "frequency": 0.0, "operations": [], "company": self._company, **points}
        await self._rest.create_one("create_meter", CONTROL, record, fields=["name"])

    async def _list(self) -> PointCatalogue:
        catalogue = to_catalogue([point async for point in self.all()])
        self._listed = (_monotonic(), catalogue)
        return catalogue

    async def _rows(self) -> AsyncIterator[Mapping[str, object]]:
        last = 0
        for _ in range(_MAX_PAGES):
            rows = await self._rest.search(
                "list_meters",
                CONTROL,
                fields=_FIELDS,
                domain=[["id", ">", last], *self._domain()],
                limit=_PAGE,
                page=True,
            )
            for row in rows:
                yield row
            if len(rows) < _PAGE:
                return
            following = rows[-1].get("id")
            if not isinstance(following, int) or following <= last:
                break
            last = following
        raise Unavailable("Tryton's list of quality controls does not end")

    def _domain(self) -> list[object]:
        return [] if self._company is None else [["company", "in", [self._company, None]]]


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
