"""Commands of customers over MQTT 5: request and response, by one replica at a time. What is asked is done by
what is handed in.

A command that is published while nobody listens is not answered: its sender has a time-out, and asks again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, assert_never

import structlog
from paho.mqtt.subscribeoptions import SubscribeOptions
from pydantic import ValidationError

from gateway import clock
from gateway.bulkhead import contained
from gateway.events.command_admission import MAX_WAITING, Admission, AdmittedCommand, count
from gateway.events.command_documents import (
    CommandAnswer,
    CommandError,
    ExplainAnswer,
    ExplainRequest,
    RecordsRequest,
    StatusAnswer,
    StatusRequest,
    SyncAnswer,
    SyncRequest,
)
from gateway.events.documents import status_document
from gateway.events.leading import lead
from gateway.events.record_documents import answer_payload
from gateway.events.session import ControlSession, PublishRefused, StrictClient
from gateway.model.command import Verb, commands_filter
from gateway.model.errors import RequestRefused, StoreError, StoreRejected, StoreUnavailable
from gateway.model.explanation import Explanation
from gateway.model.record import read_cursor
from gateway.settings import Settings
from gateway.store import status
from gateway.store.pool import Database
from gateway.store.records import Records

log = structlog.get_logger(__name__)

LEASE = "commands"
ANSWER_BYTES = 320 << 10
"""More than the largest record takes."""

ENVELOPE_BYTES = 1024
"""Of an answer, without what it holds."""

ANSWER_SECONDS = 10.0
EXPIRY_SECONDS = 60
WORKERS = 4


class Synchronise(Protocol):
    """Wakes the streams of a connection."""

    async def __call__(self, connection: str, *, full: bool, request_id: str) -> None:
        """Raises RequestRefused where the connection's state forbids it, and StoreError."""
        ...


Explain = Callable[[str, str, bytes], Explanation]
"""customer, topic, payload. Raises RequestRefused."""


@dataclass(frozen=True, slots=True)
class _Written:
    """A RecordsAnswer as it is published: its bodies are as they are stored, and were never objects."""

    written: bytes

    def payload(self) -> bytes:
        """As of an Answer."""
        return self.written


class Commands:
    """Answers `status`, `sync`, `explain` and `records`."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        replica: str,
        synchronise: Synchronise,
        explain: Explain,
    ) -> None:
        """`replica` names it in the lease, followed by `/` and more."""
        self._settings = settings
        self._database = database
        self._owner = f"{replica}/{secrets.token_hex(4)}"
        self._look = asyncio.Event()
        self._synchronise = synchronise
        self._explain = explain
        self._root = settings.broker.topic_root
        self._admission = Admission(self._root)

    async def run(self) -> None:
        """Until cancelled. Neither a broker nor a database that is away ends it. Raises ConfigError for TLS
        files that cannot be used.
        """
        await lead(self._database, LEASE, self._owner, self._session, look=self._look)

    def wake(self) -> None:
        """The lease may be free: asks for it at once."""
        self._look.set()

    async def _session(self) -> None:
        await ControlSession("commands", self._settings.broker, serve=self._serve).run()

    async def _serve(self, client: StrictClient) -> None:
        # A retained command keeps its mark, and those that lie at the broker are not sent at all.
        await client.subscribe(
            commands_filter(self._root),
            options=SubscribeOptions(qos=1, retainAsPublished=True, retainHandling=2),
        )
        queue: asyncio.Queue[AdmittedCommand] = asyncio.Queue(MAX_WAITING)
        self._admission.begin()
        tasks = [asyncio.create_task(self._work(client, queue)) for _ in range(WORKERS)]
        tasks.append(asyncio.create_task(self._listen(client, queue)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, client: StrictClient, queue: asyncio.Queue[AdmittedCommand]) -> None:
        async for message in client.messages:
            request = self._admission.admit(message)
            if request is not None:
                queue.put_nowait(request)

    async def _work(self, client: StrictClient, queue: asyncio.Queue[AdmittedCommand]) -> None:
        while True:
            request = await queue.get()
            try:
                await self._reply(client, request, await self._answer(request))
            finally:
                self._admission.answered(request)

    async def _answer(self, request: AdmittedCommand) -> CommandAnswer | _Written:
        """Never raises for what a request holds."""
        with contained("command", request.customer) as made:
            return await self._answered(request)
        assert made.fault is not None
        return _error(request, "gateway.internal", made.fault.text)

    async def _answered(self, request: AdmittedCommand) -> CommandAnswer | _Written:
        with structlog.contextvars.bound_contextvars(request_id=request.request_id):
            try:
                if request.refusal is not None:
                    raise request.refusal
                async with asyncio.timeout(ANSWER_SECONDS):
                    return await self._do(request)
            except RequestRefused as error:
                return _error(
                    request,
                    error.code,
                    str(error),
                    connection=error.connection,
                    retry_after=error.retry_after,
                )
            except ValidationError as error:
                return _error(
                    request,
                    "request.invalid",
                    "; ".join(
                        f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
                    ),
                )
            except StoreRejected:
                return _error(request, "request.invalid", "the request holds a value that cannot be stored")
            except (StoreUnavailable, TimeoutError):
                return _error(
                    request, "gateway.overloaded", "the gateway cannot answer now; ask again", retry_after=1.0
                )
            except StoreError as error:
                log.error(
                    "events.command_failed", customer=request.customer, verb=request.verb, detail=str(error)
                )
                return _error(request, "gateway.internal", "the gateway's log has it under this request id")

    async def _do(self, request: AdmittedCommand) -> CommandAnswer | _Written:
        customer, payload = request.customer, request.payload or b"{}"
        match _verb(request.verb):
            case Verb.STATUS:
                names = await self._owned(customer, StatusRequest.model_validate_json(payload).connection)
                now, found = clock.now(), await status.read(self._database, names)
                documents = tuple(
                    status_document(each, now=now) for each in found if each.customer == customer
                )
                return StatusAnswer(request_id=request.request_id, connections=documents)
            case Verb.SYNC:
                wanted = SyncRequest.model_validate_json(payload)
                await self._owned(customer, wanted.connection)
                await self._synchronise(
                    wanted.connection, full=wanted.mode == "full", request_id=request.request_id
                )
                return SyncAnswer(
                    request_id=request.request_id, connection=wanted.connection, mode=wanted.mode
                )
            case Verb.EXPLAIN:
                question = ExplainRequest.model_validate_json(payload)
                return ExplainAnswer(
                    request_id=request.request_id,
                    explanation=self._explain(customer, question.topic, question.message),
                )
            case Verb.RECORDS:
                return await self._records(request, RecordsRequest.model_validate_json(payload))
            case verb:
                assert_never(verb)

    async def _records(self, request: AdmittedCommand, wanted: RecordsRequest) -> _Written:
        try:
            place = read_cursor(wanted.cursor, customer=request.customer)
        except ValueError as error:
            raise RequestRefused("request.invalid", str(error)) from error
        await self._owned(request.customer, wanted.connection)
        room = ANSWER_BYTES - ENVELOPE_BYTES
        page = await Records(self._database).page(
            request.customer,
            place=place,
            connection=wanted.connection,
            stream=wanted.stream,
            modified_after=wanted.modified_after,
            limit=wanted.limit,
            max_bytes=room,
        )
        return _Written(answer_payload(page, request_id=request.request_id, max_bytes=room))

    async def _owned(self, customer: str, connection: str | None) -> list[str]:
        """A connection of another customer looks as if it did not exist."""
        names = await status.owned(self._database, customer, connection)
        if connection is not None and not names:
            raise RequestRefused(
                "request.not_found", f"there is no connection {connection!r}", connection=connection
            )
        return names

    async def _reply(
        self, client: StrictClient, request: AdmittedCommand, answer: CommandAnswer | _Written
    ) -> None:
        outcome = "refused" if isinstance(answer, CommandError) else "done"
        if request.reply is not None:
            payload = answer.payload()
            if len(payload) > ANSWER_BYTES:
                outcome = "refused"
                payload = _error(
                    request,
                    "request.too_large",
                    f"the answer would have {len(payload)} bytes; ask for less at once",
                ).payload()
            try:
                await client.publish_once(
                    request.reply,
                    payload,
                    content_type="application/json",
                    expiry_seconds=EXPIRY_SECONDS,
                    correlation=request.correlation,
                )
            except PublishRefused as error:
                self._admission.ignore(request.customer, request.verb, "unanswerable", str(error))
                return
        count(request.verb, outcome)


def _verb(text: str) -> Verb:
    if text not in set(Verb):
        raise RequestRefused(
            "request.not_found", f"there is no command {text[:64]!r}; there are {', '.join(Verb)}"
        )
    return Verb(text)


def _error(
    request: AdmittedCommand,
    code: str,
    detail: str,
    *,
    connection: str | None = None,
    retry_after: float | None = None,
) -> CommandError:
    return CommandError(
        request_id=request.request_id,
        code=code,
        detail=detail,
        connection=connection,
        retry_after=retry_after,
    )
