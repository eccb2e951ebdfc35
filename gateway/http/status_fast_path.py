"""The fast path of the one answer that programs poll: the status document. Any request that is not plainly
for it goes to the application, which says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import clock
from gateway.http.api.connections import has_version, status_headers, status_payload
from gateway.http.auth import ANYONE, Mounted
from gateway.http.gathering import Gathering
from gateway.http.middleware import careful_headers, request_id
from gateway.http.services import Services
from gateway.model.access import Principal, Role
from gateway.model.errors import StoreError
from gateway.model.status import ConnectionStatus
from gateway.model.topics import IDENTIFIER

HELD_SECONDS = 0.1
"""How old an answer may be; `updated` in the document says when it was read. What was changed by way of this
process is seen at once.
"""

MAX_HELD = 10_000

_PATH = re.compile(rf"/v1/connections/({IDENTIFIER.pattern})/status")
_SCHEME = "bearer "


@dataclass(frozen=True, slots=True)
class _Answer:
    until: float
    customer: str
    version: int
    payload: bytes
    headers: tuple[tuple[bytes, bytes], ...]


class StatusFastPath:
    """Before the application: routing, dependencies and a query for each request cost several times what the
    answer itself does (ADR 16).
    """

    def __init__(self, app: ASGIApp, mounted: Mounted) -> None:
        self._app, self._mounted = app, mounted
        self._statuses = Gathering(self._read)
        self._held: dict[str, _Answer] = {}
        self._changes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Only `GET /v1/connections/{connection}/status` of a connection that exists for whoever asks;
        anything else passes.
        """
        reads = scope["type"] == "http" and scope["method"] == "GET" and scope["path"].startswith("/v1/")
        if reads and (path := _PATH.fullmatch(scope["path"])) is not None:
            asked: dict[bytes, bytes] = dict(scope["headers"])
            # a header that comes twice goes the long way
            is_plain = len(asked) == len(scope["headers"]) and b"host" in asked
            if is_plain and self._mounted.entrance.is_our_host(asked[b"host"]):
                answer = await self._answer(path[1], asked.get(b"authorization", b"").decode("latin-1"))
                if answer is not None:
                    await _send(answer, asked, send)
                    return
        try:
            await self._app(scope, receive, send)
        finally:
            if not reads:  # perhaps a change
                self._changes += 1
                self._held.clear()

    async def _answer(self, connection: str, authorization: str) -> _Answer | None:
        services = self._mounted.services
        if services is None:
            return None
        try:
            asking = await self._principal(services, authorization)
            if asking is None or not asking.role.covers(Role.VIEWER):
                return None
            found = self._held.get(connection)
            if found is None or found.until <= clock.monotonic():
                found = await self._fresh(connection)
        except StoreError:
            return None
        return found if found is not None and asking.may_see(found.customer) else None

    async def _principal(self, services: Services, authorization: str) -> Principal | None:
        if not services.authentication:
            return ANYONE
        token = authorization[len(_SCHEME) :]
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            return None
        found = services.access.trusted(token)
        # A token that was not good before is looked up once only, by the application: failed attempts count
        # there.
        if found is None and self._mounted.entrance.is_known(token):
            found = await services.access.identify(token)
        return None if found is None else found[0]

    async def _fresh(self, connection: str) -> _Answer | None:
        changes = self._changes
        status = await self._statuses.get(connection)
        if status is None:
            return None
        payload = status_payload(status)
        headers = {
            "content-type": "application/json",
            "content-length": str(len(payload)),
            **status_headers(status.version),
        }
        answer = _Answer(
            clock.monotonic() + HELD_SECONDS,
            status.customer,
            status.version,
            payload,
            careful_headers(headers),
        )
        if changes == self._changes:
            if len(self._held) >= MAX_HELD:
                self._held.clear()
            self._held[connection] = answer
        return answer

    async def _read(self, connections: Sequence[str]) -> Mapping[str, ConnectionStatus]:
        assert self._mounted.services is not None
        return {found.connection: found for found in await self._mounted.services.reader.status(connections)}


async def _send(answer: _Answer, asked: Mapping[bytes, bytes], send: Send) -> None:
    known = has_version(_text(asked.get(b"if-none-match")), answer.version)
    identifier = request_id(_text(asked.get(b"x-request-id")) or "")
    headers = [(b"x-request-id", identifier.encode()), *answer.headers]
    if known:
        headers = [one for one in headers if one[0] not in (b"content-type", b"content-length")]
    await send({"type": "http.response.start", "status": 304 if known else 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if known else answer.payload})


def _text(header: bytes | None) -> str | None:
    return None if header is None else header.decode("latin-1")
