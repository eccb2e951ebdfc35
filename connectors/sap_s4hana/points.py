"""Measuring points of S/4HANA: listed, found by position number, made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping

from connectors.kit.classify import to_error
from connectors.kit.inbound import key_of, page_at
from connectors.kit.odata.batch import BatchRequest, PartAnswer
from connectors.kit.odata.envelope import fault_of
from connectors.kit.odata.query import entity_of, next_of, rows_of, target
from connectors.kit.odata.service import Service
from connectors.kit.odata.values import text_literal
from connectors.kit.sap.records import PAGE, to_body
from connectors.sap_s4hana.mapping import (
    POINT_FIELDS,
    POINT_SET,
    POSITION_LENGTH,
    MeasuringPoint,
    point_body,
    to_point,
)
from connectors.sap_s4hana.settings import NewMeasuringPoint
from gateway.model.errors import BadConfiguration, Unavailable
from gateway.model.exchange import RemoteMeter
from gateway.model.inbound import InboundPage, InboundRecord, check_page
from gateway.model.outcome import Rejected

_KNOWN_SECONDS = 600.0
_UNKNOWN_SECONDS = 60.0  # a point that was just made is found after a minute
_QUESTIONS = 100
_REMEMBERED = 100_000
_REFUSALS = (400, 404, 409, 422, 423)


class Points:
    """The service of measuring points, and what it said of positions lately."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known: dict[str, tuple[float, MeasuringPoint | Rejected]] = {}
        self._asking = asyncio.Lock()

    async def all(self) -> AsyncIterator[MeasuringPoint]:
        """Every active point that the user may see."""
        where = "MeasuringPointIsInactive eq false"
        async for row in self._service.list(
            "list_meters", target(POINT_SET, where=where, select=POINT_FIELDS), entity_set=POINT_SET
        ):
            if (point := to_point(row)) is not None:
                yield point

    async def page(self, cursor: str | None) -> InboundPage:
        """One page of all points as records. SAP does not say when a point changed."""
        with page_at(cursor):
            answer = await self._service.get(
                "pull", cursor or target(POINT_SET, order=("MeasuringPoint",)), page_size=PAGE
            )
        rows = self._service.rows(answer, POINT_SET)
        check_page(len(rows), POINT_SET)
        records = [
            InboundRecord(
                key=key_of([row.get("MeasuringPoint")], to_body(row)), modified_at=None, body=to_body(row)
            )
            for row in rows
        ]
        return InboundPage(records=records, cursor=next_of(answer.json, entity_set=POINT_SET))

    async def by_number(self, number: str) -> MeasuringPoint | None:
        """None where the user sees none."""
        answer = await self._service.get(
            "list_meters",
            target(POINT_SET, where=f"MeasuringPoint eq {text_literal(number)}", select=POINT_FIELDS, top=1),
        )
        return next(
            (point for row in self._service.rows(answer, POINT_SET) if (point := to_point(row)) is not None),
            None,
        )

    async def by_position(self, positions: Collection[str]) -> Mapping[str, MeasuringPoint | Rejected]:
        """The point of each position number, asked at most every ten minutes. Rejected where there is none,
        or more than one.
        """
        async with self._asking:
            now = _monotonic()
            wanted = {
                position
                for position in positions
                if position not in self._known or self._known[position][0] <= now
            }
            found: dict[str, MeasuringPoint | Rejected] = {
                position: _no_position(position) for position in wanted if not _can_be(position)
            }
            asked = sorted(wanted - found.keys())
            for begin in range(0, len(asked), _QUESTIONS):
                part = asked[begin : begin + _QUESTIONS]
                questions = [BatchRequest(target=_question(position)) for position in part]
                answers = await self._service.batch("list_meters", questions)
                found |= {
                    position: self._read(position, answer)
                    for position, answer in zip(part, answers, strict=True)
                }
            if len(self._known) + len(found) > _REMEMBERED:
                self._known.clear()
            for position, point in found.items():
                self._known[position] = (
                    now + (_KNOWN_SECONDS if isinstance(point, MeasuringPoint) else _UNKNOWN_SECONDS),
                    point,
                )
            return {
                position: found[position] if position in found else self._known[position][1]
                for position in positions
            }

    async def ensure(self, wanted: RemoteMeter, new: NewMeasuringPoint | None) -> MeasuringPoint | Rejected:
        """The point with this position number, made where there is none."""
        known = (await self.by_position([wanted.meter]))[wanted.meter]
        if isinstance(known, MeasuringPoint) or known.code != "unknown_meter" or not _can_be(wanted.meter):
            return known
        if new is None:
            raise BadConfiguration(
                f"SAP has no measuring point {wanted.meter!r}, and settings.new_measuring_point does not say"
                " how to make one"
            )
        async with self._asking:
            answer = await self._service.get("list_meters", _question(wanted.meter))
            existing = [
                point for row in self._service.rows(answer, POINT_SET) if (point := to_point(row)) is not None
            ]
            made = existing[0] if existing else await self._make(wanted, new)
            if isinstance(made, MeasuringPoint):
                self._known[wanted.meter] = (_monotonic() + _KNOWN_SECONDS, made)
            return made

    async def _make(self, wanted: RemoteMeter, new: NewMeasuringPoint) -> MeasuringPoint | Rejected:
        answer = await self._service.create(
            "create_meter", POINT_SET, point_body(wanted, new), accept_statuses=_REFUSALS
        )
        if answer.status in _REFUSALS:
            fault = fault_of(
                answer.json, text=self._service.http.text_of(answer), clean=self._service.http.clean
            )
            return Rejected(code=fault.code, message=self._service.http.clean(fault.message))
        point = to_point(entity_of(answer.json))
        if point is None:
            raise Unavailable(
                "SAP's answer to a new measuring point bears no number: it is looked up next time",
                request_id=answer.request_id,
            )
        return point

    def _read(self, position: str, answer: PartAnswer | None) -> MeasuringPoint | Rejected:
        if answer is None:
            raise Unavailable("SAP did not answer every question of a $batch")
        rows = rows_of(answer.json)
        if answer.status != 200 or rows is None:
            words = self._service.http.clean(fault_of(answer.json, clean=self._service.http.clean).message)
            raise to_error(
                answer.status,
                f"SAP answered {answer.status} to a question: {words}",
                idempotent=True,
                retry_after=None,
                request_id=None,
            )
        points = [point for row in rows if (point := to_point(row)) is not None]
        if len(points) > 1:
            numbers = ", ".join(point.number for point in points)
            return Rejected(
                code="ambiguous_meter",
                message=f"several measuring points have the position number {position!r}: {numbers}",
            )
        return points[0] if points else _no_position(position)


def _question(position: str) -> str:
    where = f"MeasuringPointPositionNumber eq {text_literal(position)} and MeasuringPointIsInactive eq false"
    return target(POINT_SET, where=where, select=POINT_FIELDS, top=2)


def _can_be(position: str) -> bool:
    return position.isprintable() and 0 < len(position) <= POSITION_LENGTH


def _no_position(position: str) -> Rejected:
    return Rejected(
        code="unknown_meter",
        message=f"SAP has no active measuring point with the position number {position[:40]!r}",
    )


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
