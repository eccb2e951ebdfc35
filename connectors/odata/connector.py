"""Creates readings in an entity set of any OData V4 service, finds them by key, lists meters, pulls what
changed.

A refusal is believed after a look whether the service holds the reading already: it may be the answer to a
repeat. Source: OData Version 4.0 Part 1 and Part 2; Microsoft, "Business Central API: OData $batch, limits,
rate limits".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from connectors.kit.authorization import authorization_for
from connectors.kit.classify import to_error
from connectors.kit.credentials import NOT_SECRET
from connectors.kit.http import HttpClient
from connectors.kit.inbound import clock_of, known
from connectors.kit.manifest import load_manifest
from connectors.kit.odata.batch import BatchRequest, PartAnswer
from connectors.kit.odata.envelope import ODataFault, fault_of
from connectors.kit.odata.query import entity_of, next_of, rows_of, target
from connectors.kit.odata.service import Service
from connectors.kit.odata.values import Version
from connectors.kit.settings import parse
from connectors.kit.words import words_of
from connectors.odata.mapping import (
    identity,
    is_same,
    pick,
    to_held,
    to_meter,
    to_operation,
    to_questions,
)
from connectors.odata.records import Sets
from connectors.odata.settings import ODataCredentials, ODataSettings
from gateway.model.connector import Capabilities, ConnectorSettings, Dedup, ProbeResult, RemoteReading
from gateway.model.errors import BadConfiguration, ConnectorError, Unavailable
from gateway.model.exchange import RemoteMeter
from gateway.model.inbound import InboundPage, InboundStream, KeyPage
from gateway.model.outcome import Accepted, Duplicate, Outcome, Rejected, Retry
from gateway.model.reading import Batch, Reading

MANIFEST = load_manifest("connectors.odata")
_QUESTIONS = 100  # in one request
_WAITING_STATUSES = (401, 403, 408, 423, 425, 429)
_WAIT_SECONDS = 30.0
_NOT_REACHED = Retry(
    after_seconds=1.0, message="the service did not get to this reading: it stopped at one before it"
)


class ODataConnector:
    """One service, one credential."""

    def __init__(self, built_from: ConnectorSettings) -> None:
        """Raises BadConfiguration; opens nothing."""
        settings = self._settings = parse(ODataSettings, built_from.settings, what="settings")
        credentials = parse(ODataCredentials, built_from.credentials, what="credentials")
        given = {name: value.get_secret_value() for name, value in credentials if value is not None}
        if built_from.token is None and not {"username", "api_key"} & given.keys():
            raise BadConfiguration(
                "credentials: an OAuth 2.0 client, a user and its password, or an API key is needed"
            )
        hidden = [value for name, value in given.items() if name not in NOT_SECRET]
        self._http = HttpClient(
            settings.base_url,
            headers={},
            secrets=hidden,
            timeout_seconds=built_from.timeout_seconds,
            observe=built_from.observe,
            reach=built_from.settings_reach,
        )
        self._http.authorize(
            authorization_for(
                built_from, conceal=self._http.conceal, api_key=lambda key: {settings.api_key_header: key}
            )
        )
        self._service = Service(
            self._http,
            path=settings.service,
            version=Version.V4,
            entity_set=settings.entity_set,
            parameters=settings.parameters,
            json_batch=settings.batch == "json",
        )
        self._sets = Sets(self._service, settings.streams)
        dedup: Dedup = "none"
        if settings.unique_key:
            dedup = "natural_key"
        elif settings.properties.key:
            dedup = "client_ref"
        self._capabilities = replace(
            MANIFEST.capabilities,
            max_items=settings.max_items,
            dedup=dedup,
            readback="full" if settings.properties.key else "none",
        )

    @property
    def capabilities(self) -> Capabilities:
        """The manifest's, narrowed by `max_items`, `properties.key` and `unique_key`."""
        return self._capabilities

    @property
    def inbound(self) -> Sequence[InboundStream]:
        """The sets of `settings.streams`."""
        return self._sets.inbound

    async def probe(self) -> ProbeResult:
        """Reads one reading."""
        await self._service.get(
            "probe", target(self._settings.entity_set, select=[self._settings.properties.meter], top=1)
        )
        return ProbeResult()

    async def push(self, batch: Batch) -> Sequence[Outcome]:
        """One request, each reading in a changeset of its own; one more where the service refuses some."""
        outcomes: dict[str, Outcome] = {}
        sent: list[tuple[Reading, BatchRequest]] = []
        for reading in batch.readings:
            made = to_operation(self._settings, reading)
            if isinstance(made, BatchRequest):
                sent.append((reading, made))
            else:
                outcomes[reading.key] = made
        if sent:
            answers = await self._service.batch("push", [operation for _, operation in sent])
            reached = [answer for answer in answers if answer is not None]
            if reached and all(answer.status in (401, 403, 404, 405, 501) for answer in reached):
                await self.probe()  # raises where that is so for everything
            outcomes.update(await self._judge([reading for reading, _ in sent], answers))
        return [outcomes[reading.key] for reading in batch.readings]

    async def find(self, readings: Sequence[Reading]) -> Mapping[str, RemoteReading]:
        """What the service holds of these keys; nothing without `properties.key`."""
        if not readings or self._settings.properties.key is None:
            return {}
        held: dict[str, list[RemoteReading]] = {}
        questions = to_questions(self._settings, [reading.key for reading in readings])
        for begin in range(0, len(questions), _QUESTIONS):
            for answer in await self._service.batch("find", questions[begin : begin + _QUESTIONS]):
                for key, remotes in to_held(self._settings, await self._rows(answer)).items():
                    held.setdefault(key, []).extend(remotes)
        return {reading.key: pick(reading, held[reading.key]) for reading in readings if reading.key in held}

    async def meters(self) -> AsyncIterator[RemoteMeter]:
        """What `meters` names; BadConfiguration without it."""
        settings = self._settings.meters
        if settings is None:
            raise BadConfiguration("settings.meters does not say where the service lists meters")
        wanted = [name for name in (settings.meter, settings.title, settings.unit) if name is not None]
        async for row in self._service.list(
            "list_meters", target(settings.entity_set, select=wanted), entity_set=settings.entity_set
        ):
            if (meter := to_meter(settings, row)) is not None:
                yield meter

    async def remote_now(self, stream: str) -> datetime:
        """By the Date of the last answer."""
        known(self.inbound, stream, where="settings.streams")
        return await clock_of(self._http, self.probe)

    async def pull(
        self, stream: str, since: datetime | None, until: datetime, cursor: str | None = None
    ) -> InboundPage:
        """Ascending by the time of change."""
        return await self._sets.pull(stream, since, until, cursor)

    async def pull_open(self, stream: str, cursor: str | None = None) -> InboundPage:
        """What `progress` does not call closed."""
        return await self._sets.pull_open(stream, cursor)

    async def keys(self, stream: str, cursor: str | None = None) -> KeyPage:
        """By the key's properties alone."""
        return await self._sets.keys(stream, cursor)

    async def close(self) -> None:
        """Idempotent."""
        await self._http.close()

    async def _rows(self, answer: PartAnswer | None) -> Sequence[Mapping[str, object]]:
        if answer is None:
            raise Unavailable("the service did not answer every question of a $batch")
        rows = rows_of(answer.json)
        if answer.status != 200 or rows is None:
            words = self._words(self._fault(answer))
            raise to_error(
                answer.status,
                f"the service answered {answer.status} to a question: {words}",
                idempotent=True,
                retry_after=None,
                request_id=None,
            )
        if (following := next_of(answer.json, entity_set=self._settings.entity_set)) is not None:
            rows = [
                *rows,
                *[
                    row
                    async for row in self._service.list(
                        "find", following, entity_set=self._settings.entity_set
                    )
                ],
            ]
        return rows

    async def _judge(
        self, sent: Sequence[Reading], answers: Sequence[PartAnswer | None]
    ) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        doubtful: dict[str, tuple[Reading, Rejected]] = {}
        for reading, answer in zip(sent, answers, strict=True):
            if answer is None:
                outcomes[reading.key] = _NOT_REACHED
            elif 200 <= answer.status < 300:
                outcomes[reading.key] = Accepted(remote_id=identity(self._settings, entity_of(answer.json)))
            elif answer.status >= 500 or answer.status in _WAITING_STATUSES:
                outcomes[reading.key] = Retry(
                    after_seconds=_WAIT_SECONDS, message=self._words(self._fault(answer))
                )
            else:
                fault = self._fault(answer)
                doubtful[reading.key] = (reading, Rejected(code=fault.code, message=self._words(fault)))
        if doubtful:
            outcomes.update(await self._look_up(doubtful))
        return outcomes

    async def _look_up(self, doubtful: Mapping[str, tuple[Reading, Rejected]]) -> dict[str, Outcome]:
        """Where the service cannot be asked now, these wait: what the others were told must not be lost."""
        try:
            found = await self.find([reading for reading, _ in doubtful.values()])
        except ConnectorError as error:
            return {
                key: Retry(after_seconds=_WAIT_SECONDS, message=f"{refused.message} (and then: {error})")
                for key, (_, refused) in doubtful.items()
            }
        outcomes: dict[str, Outcome] = {}
        for key, (reading, refused) in doubtful.items():
            remote = found.get(key)
            if remote is not None and is_same(reading.value, remote.value):
                outcomes[key] = Duplicate(remote_id=remote.remote_id)
            elif remote is not None:
                outcomes[key] = replace(
                    refused, message=f"{refused.message} (the service holds {remote.value!r} there)"
                )
            else:
                outcomes[key] = refused
        return outcomes

    def _fault(self, answer: PartAnswer) -> ODataFault:
        return fault_of(
            answer.json, text=words_of(answer.json, answer.body, answer.headers), clean=self._http.clean
        )

    def _words(self, fault: ODataFault) -> str:
        return self._http.clean(fault.message)


def build(built_from: ConnectorSettings) -> ODataConnector:
    """The registry's way to a connector. Raises BadConfiguration."""
    return ODataConnector(built_from)
