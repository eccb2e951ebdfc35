"""Pushes readings to a service of measurement documents and finds them again, for S/4HANA and ECC alike.

A point holds one document a second, so sending again is harmless: SAP says that it has it. It never changes a
document, so of a reading whose slot is taken it is asked which value it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from connectors.kit.classify import to_error
from connectors.kit.odata.batch import BatchRequest, PartAnswer
from connectors.kit.odata.envelope import ODataFault, fault_of, warnings_of
from connectors.kit.odata.query import entity_of, next_of, rows_of, target
from connectors.kit.odata.service import Service
from connectors.kit.sap.codes import RefusalVerdict, verdict
from connectors.kit.sap.documents import (
    Form,
    Slot,
    is_point,
    is_same,
    pick,
    slot_of,
    to_held,
    to_operation,
    to_questions,
)
from connectors.kit.words import words_of
from gateway.model.connector import ProbeResult, RemoteReading
from gateway.model.errors import ConnectorError, Unavailable
from gateway.model.outcome import Accepted, Duplicate, Outcome, Rejected, Retry
from gateway.model.reading import Reading

_LOCKED_SECONDS = 30.0
_FORBIDDEN_SECONDS = 300.0
_NOT_REACHED = Retry(
    after_seconds=1.0, message="SAP did not get to this reading: it stopped at one before it"
)
Pointed = tuple[Reading, str]
"""A reading and the number of its measuring point."""


class Documents:
    """One service of measurement documents."""

    def __init__(
        self, service: Service, form: Form, *, codes: Mapping[str, str], skew: timedelta, questions: int
    ) -> None:
        """`codes`: verdicts by SAP's code. `questions`: most queries in one request."""
        self._service = service
        self._form = form
        self._codes = codes
        self._skew = skew
        self._questions = questions
        self._warning = ""

    async def probe(self) -> ProbeResult:
        """Reads one document's number. `detail` repeats the last warning that came beside a success."""
        await self._service.get(
            "probe", target(self._form.entity_set, select=[self._form.fields.number], top=1)
        )
        return ProbeResult(detail=f"SAP warned: {self._warning}" if self._warning else "")

    async def push(self, pointed: Sequence[Pointed]) -> list[Outcome]:
        """One outcome each, in order. One request, and one more where SAP says that it holds a document
        already, or says what nobody knows.
        """
        if not pointed:
            return []
        await self._service.open()
        now = self._service.http.system_time()
        outcomes: dict[str, Outcome] = {}
        sent: list[tuple[Pointed, BatchRequest]] = []
        for reading, point in pointed:
            made = to_operation(self._form, reading, point, now=now, skew=self._skew)
            if isinstance(made, BatchRequest):
                sent.append(((reading, point), made))
            else:
                outcomes[reading.key] = made
        if sent:
            answers = await self._service.batch("push", [operation for _, operation in sent])
            await self._confirm_denial(answers)
            outcomes.update(await self._judge([item for item, _ in sent], answers))
        return [outcomes[reading.key] for reading, _ in pointed]

    async def find(self, pointed: Sequence[Pointed]) -> dict[str, RemoteReading]:
        """What SAP holds in the slots of these, by key; one request for `questions` points and days."""
        held: dict[Slot, list[RemoteReading]] = {}
        slots = [
            (reading, slot_of(point, reading, self._form.zone))
            for reading, point in pointed
            if is_point(point)
        ]
        asked = list(to_questions(self._form, (slot for _, slot in slots)).items())
        for begin in range(0, len(asked), self._questions):
            part = asked[begin : begin + self._questions]
            answers = await self._service.batch("find", [operation for _, operation in part])
            for ((point, _), _), answer in zip(part, answers, strict=True):
                held |= to_held(self._form, point, await self._rows(answer))
        return {reading.key: pick(reading, held[slot]) for reading, slot in slots if slot in held}

    async def _rows(self, answer: PartAnswer | None) -> Iterable[Mapping[str, object]]:
        if answer is None:
            raise Unavailable("SAP did not answer every question of a $batch")
        if answer.status != 200:
            words = self._words(self._fault(answer))
            raise to_error(
                answer.status,
                f"SAP answered {answer.status} to a question: {words}",
                idempotent=True,
                retry_after=None,
                request_id=None,
            )
        listed = rows_of(answer.json)
        if listed is None:
            raise Unavailable("SAP's answer to a question lists no documents")
        rows = list(listed)
        if (following := next_of(answer.json, entity_set=self._form.entity_set)) is not None:
            rows += [
                row async for row in self._service.list("find", following, entity_set=self._form.entity_set)
            ]
        return rows

    async def _confirm_denial(self, answers: Sequence[PartAnswer | None]) -> None:
        """Where every answer speaks of logon, permission or address, a probe tells whether that is so; then
        it raises.
        """
        reached = [answer for answer in answers if answer is not None]
        if reached and all(answer.status in (401, 403, 404, 405, 501) for answer in reached):
            await self.probe()

    async def _judge(
        self, sent: Sequence[Pointed], answers: Sequence[PartAnswer | None]
    ) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        doubtful: dict[str, tuple[Pointed, RefusalVerdict, ODataFault]] = {}
        for item, answer in zip(sent, answers, strict=True):
            key = item[0].key
            if answer is None:
                outcomes[key] = _NOT_REACHED
            elif 200 <= answer.status < 300:
                outcomes[key] = self._accepted(answer)
            else:
                fault = self._fault(answer)
                judged = self._refused(item[0], answer.status, fault)
                if isinstance(judged, RefusalVerdict):
                    doubtful[key] = (item, judged, fault)
                else:
                    outcomes[key] = judged
        if doubtful:
            outcomes.update(await self._look_up(doubtful))
        return outcomes

    def _accepted(self, answer: PartAnswer) -> Accepted:
        self._warning = self._service.http.clean(warnings_of(answer.headers)) or self._warning
        number = entity_of(answer.json).get(self._form.fields.number)
        return Accepted(remote_id=number if isinstance(number, str) and number else None)

    def _refused(self, reading: Reading, status: int, fault: ODataFault) -> Rejected | Retry | RefusalVerdict:
        """The outcome, or the verdict that only SAP's own documents can settle."""
        words = self._words(fault)
        if status in (401, 403):
            return Retry(after_seconds=_FORBIDDEN_SECONDS, message=words)
        match verdict(status, fault, self._codes):
            case RefusalVerdict.FUTURE:
                now = self._service.http.system_time()
                early = (reading.window_start - now).total_seconds() if now is not None else 0.0
                return Retry(after_seconds=max(60.0, early), message=words)
            case RefusalVerdict.LOCKED:
                return Retry(after_seconds=_LOCKED_SECONDS, message=words)
            case RefusalVerdict.REFUSED:
                return Rejected(code=fault.code, message=words)
            case RefusalVerdict.DUPLICATE | RefusalVerdict.UNSURE as doubt:
                return doubt

    async def _look_up(
        self, doubtful: Mapping[str, tuple[Pointed, RefusalVerdict, ODataFault]]
    ) -> dict[str, Outcome]:
        """Delivered where SAP holds the value. Where it cannot be asked now, these wait: what the others were
        told must not be lost.
        """
        try:
            found = await self.find([item for item, _, _ in doubtful.values()])
        except ConnectorError as error:
            return {
                key: Retry(after_seconds=_LOCKED_SECONDS, message=f"{self._words(fault)} (and then: {error})")
                for key, (_, _, fault) in doubtful.items()
            }
        outcomes: dict[str, Outcome] = {}
        for key, ((reading, _), doubt, fault) in doubtful.items():
            remote, words = found.get(key), self._words(fault)
            if remote is None:
                outcomes[key] = (
                    Duplicate()
                    if doubt is RefusalVerdict.DUPLICATE
                    else Rejected(code=fault.code, message=words)
                )
            elif is_same(reading, remote):
                outcomes[key] = Duplicate(remote_id=remote.remote_id)
            elif doubt is RefusalVerdict.DUPLICATE:
                holds = (
                    f"SAP holds {remote.value} there in document {remote.remote_id}, which only a person can"
                    " reverse"
                )
                outcomes[key] = Rejected(code=fault.code, message=f"{words} ({holds})")
            else:
                outcomes[key] = Rejected(code=fault.code, message=words)
        return outcomes

    def _fault(self, answer: PartAnswer) -> ODataFault:
        return fault_of(
            answer.json,
            text=words_of(answer.json, answer.body, answer.headers),
            clean=self._service.http.clean,
        )

    def _words(self, fault: ODataFault) -> str:
        return self._service.http.clean(fault.message)
