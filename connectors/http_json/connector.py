"""Sends readings as JSON to a receiver that has no connector of its own, and reads lists of it back. How they
look and what they promise is configuration.

At least once, unless the settings say that the receiver deduplicates by key, or how to ask it what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from urllib.parse import quote

import orjson

from connectors.http_json.mapping import (
    resolution,
    sign,
    to_account,
    to_found,
    to_outcomes,
    to_refusal,
    to_values,
    words,
)
from connectors.http_json.records import Lists
from connectors.http_json.settings import OF_BODY, OF_READING, HttpJsonCredentials, HttpJsonSettings
from connectors.http_json.template import compiled, placeholders
from connectors.kit.authorization import authorization_for
from connectors.kit.bisect import BatchRefusal, push_bisecting, push_singly
from connectors.kit.credentials import NOT_SECRET
from connectors.kit.http import HttpClient
from connectors.kit.inbound import clock_of, known
from connectors.kit.manifest import load_manifest
from connectors.kit.settings import parse
from gateway.model.connector import Capabilities, ConnectorSettings, Dedup, ProbeResult, Push, RemoteReading
from gateway.model.errors import OutcomeUnknown, PermissionDenied, Unavailable
from gateway.model.inbound import InboundPage, InboundStream, KeyPage
from gateway.model.outcome import Accepted, Outcome, Rejected
from gateway.model.reading import Batch, Reading, make_batch

MANIFEST = load_manifest("connectors.http_json")
_KEYS = 50  # of one question: its address stays under 2,000 characters
_HEAD_STATUSES = (400, 404, 405, 501)


class HttpJsonConnector:
    """One receiver, one credential."""

    def __init__(self, built_from: ConnectorSettings) -> None:
        """Raises BadConfiguration; opens nothing."""
        settings = self._settings = parse(HttpJsonSettings, built_from.settings, what="settings")
        credentials = parse(HttpJsonCredentials, built_from.credentials, what="credentials")
        self._connection = built_from.connection
        self._secret = credentials.secret.get_secret_value() if credentials.secret else None
        hidden = [
            value.get_secret_value()
            for name, value in credentials
            if value is not None and name not in NOT_SECRET
        ]
        self._http = HttpClient(
            settings.base_url,
            headers=settings.headers,
            secrets=hidden,
            timeout_seconds=built_from.timeout_seconds,
            observe=built_from.observe,
            reach=built_from.settings_reach,
        )

        def api_key(key: str) -> dict[str, str]:
            return {settings.api_key_header: settings.api_key_prefix + key}

        self._http.authorize(authorization_for(built_from, conceal=self._http.conceal, api_key=api_key))
        self._fill_reading = compiled(settings.reading, known=OF_READING)
        self._fill_body = compiled(settings.body, known=OF_BODY)
        self._capabilities = _capabilities(settings)
        self._lists = Lists(self._http, settings.base_url, settings.streams)

    @property
    def capabilities(self) -> Capabilities:
        """As the settings say: the manifest has the least."""
        return self._capabilities

    @property
    def inbound(self) -> Sequence[InboundStream]:
        """The lists of `settings.streams`."""
        return self._lists.inbound

    async def probe(self) -> ProbeResult:
        """Reads `probe_path`; without one, HEAD of the readings' address, of which not every answer tells
        whether the credential is good.
        """
        path = self._settings.probe_path
        if path is not None:
            answer = await self._http.call("probe", "GET", path, expects="reachable")
            if (refusal := to_refusal(answer.json, self._settings.refused_when)) is not None:
                said = self._http.clean(refusal[1])
                raise PermissionDenied(
                    f"the receiver refuses the probe: {said}", request_id=answer.request_id
                )
            return ProbeResult(account=to_account(answer.json, self._settings.account))
        answer = await self._http.call(
            "probe", "HEAD", self._settings.path, accept_statuses=_HEAD_STATUSES, expects="reachable"
        )
        return ProbeResult(
            detail=(
                ""
                if 200 <= answer.status < 300
                else "reachable; settings.probe_path would tell whether the credential is good"
            )
        )

    async def push(self, batch: Batch) -> Sequence[Outcome]:
        """In one request, or one for each. Where the receiver refuses a whole request without naming
        readings, they are found by bisection.
        """
        outcomes: dict[str, Outcome] = {}
        items: dict[str, object] = {}
        for reading in batch.readings:
            values = to_values(
                reading, connection=batch.connection, time=self._settings.time, position=batch.position
            )
            if isinstance(values, Rejected):
                outcomes[reading.key] = values
            else:
                items[reading.key] = self._fill_reading(values)
        sendable = [reading for reading in batch.readings if reading.key in items]
        if sendable and self._settings.send == "each":
            sent = await push_singly(
                sendable, lambda part: self._send(part, items[part[0].key], batch.position)
            )
            outcomes.update(zip((reading.key for reading in sendable), sent, strict=True))
        elif sendable:
            sent, _ = await push_bisecting(
                sendable,
                lambda part: self._send(part, self._body(part, items, batch.position), batch.position),
            )
            outcomes.update(zip((reading.key for reading in sendable), sent, strict=True))
        return [outcomes[reading.key] for reading in batch.readings]

    async def find(self, readings: Sequence[Reading]) -> Mapping[str, RemoteReading]:
        """What `read_back` lists of these; nothing without it."""
        settings = self._settings.read_back
        found: dict[str, RemoteReading] = {}
        if settings is None:
            return found
        for begin in range(0, len(readings), _KEYS):
            wanted = {reading.key: reading for reading in readings[begin : begin + _KEYS]}
            answer = await self._http.call(
                "find", "GET", f"{settings.path}?{settings.parameter}={quote(','.join(wanted), safe=',')}"
            )
            part = to_found(answer.json, settings, wanted)
            if part is None:
                raise Unavailable(
                    f"the receiver's answer has no array at {settings.items!r}", request_id=answer.request_id
                )
            found.update(part)
        return found

    async def remote_now(self, stream: str) -> datetime:
        """By the Date of the last answer."""
        known(self.inbound, stream, where="settings.streams")
        return await clock_of(self._http, self.probe)

    async def pull(
        self, stream: str, since: datetime | None, until: datetime, cursor: str | None = None
    ) -> InboundPage:
        """As `settings.streams` says how the list is asked; in the list's own order."""
        return await self._lists.pull(stream, since, until, cursor)

    async def pull_open(self, stream: str, cursor: str | None = None) -> InboundPage:
        """By `open_query`."""
        return await self._lists.pull_open(stream, cursor)

    async def keys(self, stream: str, cursor: str | None = None) -> KeyPage:
        """By `query` without its times."""
        return await self._lists.keys(stream, cursor)

    async def close(self) -> None:
        """Idempotent."""
        await self._http.close()

    def _body(self, part: Sequence[Reading], items: Mapping[str, object], position: int) -> object:
        values = {
            "batch": make_batch(self._connection, part, position).id,
            "connection": self._connection,
            "position": position,
            "readings": [items[reading.key] for reading in part],
        }
        return self._fill_body(values)

    async def _send(self, part: Sequence[Reading], body: object, position: int) -> Sequence[Outcome]:
        settings = self._settings
        content = orjson.dumps(body)
        headers = {"content-type": "application/json"}
        if settings.idempotency_header is not None:
            headers[settings.idempotency_header] = make_batch(self._connection, part, position).id
        if self._secret is not None:
            headers[settings.signature.header] = sign(self._secret, content, settings.signature)
        answer = await self._http.call(
            "push",
            settings.method,
            settings.path,
            content=content,
            headers=headers,
            accept_statuses=settings.refusals,
            expects="json" if settings.results is not None or settings.answer == "json" else "anything",
        )
        if answer.status in settings.refusals:
            said = self._http.clean(words(answer.json)) or self._http.text_of(answer)
            raise BatchRefusal(
                f"the receiver answered {answer.status}: {said}",
                code=str(answer.status),
                request_id=answer.request_id,
            )
        if (refusal := to_refusal(answer.json, settings.refused_when)) is not None:
            code, said = refusal
            raise BatchRefusal(
                self._http.clean(said), code=self._http.clean(code)[:60], request_id=answer.request_id
            )
        if settings.results is None:
            if settings.answer == "json" and answer.json is None:
                raise OutcomeUnknown("the receiver's answer is empty", request_id=answer.request_id)
            return [Accepted() for _ in part]
        outcomes = to_outcomes(answer.json, settings.results, expected=len(part), clean=self._http.clean)
        if outcomes is None:
            raise OutcomeUnknown(
                "the receiver's answer does not tell of each reading, as settings.results says",
                request_id=answer.request_id,
            )
        return outcomes


def build(built_from: ConnectorSettings) -> HttpJsonConnector:
    """The registry's way to a connector. Raises BadConfiguration."""
    return HttpJsonConnector(built_from)


def _capabilities(settings: HttpJsonSettings) -> Capabilities:
    push: Push = "bulk_opaque"
    if settings.send == "each":
        push = "single"
    elif settings.results is not None:
        push = "bulk_partial"
    dedup: Dedup = "none"
    if settings.deduplicates:
        dedup = "upsert"
    elif settings.read_back is not None:
        dedup = "client_ref"
    return replace(
        MANIFEST.capabilities,
        push=push,
        max_items=settings.max_items,
        resolution=resolution(settings.time),
        dedup=dedup,
        readback="none" if settings.read_back is None else "full",
        keeps_latest=settings.deduplicates
        and "position" in placeholders(settings.reading) | placeholders(settings.body),
    )
