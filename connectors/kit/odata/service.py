"""One OData service of a system: the CSRF token and the cookies it is bound to, reading, creating, `$batch`,
paging.

It must not know what the entities mean.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from urllib.parse import quote

from connectors.kit.answer import Answer
from connectors.kit.http import HttpClient
from connectors.kit.odata.batch import (
    BatchRequest,
    PartAnswer,
    UnreadableBatch,
    build,
    build_json,
    read,
    read_json,
)
from connectors.kit.odata.envelope import fault_of
from connectors.kit.odata.query import next_of, rows_of
from connectors.kit.odata.values import Version
from connectors.kit.paging import ListPage, walk
from gateway.model.errors import BadConfiguration, BatchRefused, OutcomeUnknown, Unavailable

MAX_TOKENS = 5
"""Tokens in turn for one request, while others begin new sessions."""

_JSON = "application/json"
_TOKEN = "x-csrf-token"  # noqa: S105 - the header's name
# A token may come with an error: a service root that cannot be listed still opens the session. 401, 429 and
# 503 stay what they are.
_TOKEN_STATUSES = (400, 403, 404, 405, 406, 500, 501)


class Service:
    """Calls go through one HTTP client, which knows the credential and whose cookies the token is bound to.
    Safe to use from several tasks.
    """

    def __init__(
        self,
        http: HttpClient,
        *,
        path: str,
        version: Version,
        entity_set: str,
        parameters: Mapping[str, str] | None = None,
        json_batch: bool = False,
    ) -> None:
        """`path` begins with a slash; `entity_set` is one that may be read; `parameters` go into the query of
        every request.

        `json_batch`: `$batch` is written as JSON, which some services of version 4 want.
        """
        self.version = version
        self.http = http
        self._path = path.rstrip("/")
        self._entity_set = entity_set
        self._query = "&".join(f"{quote(name)}={quote(value)}" for name, value in (parameters or {}).items())
        self._json_batch = json_batch
        self._token: str | None = None
        self._cookies_with_token = 0
        self._fetching = asyncio.Lock()

    async def open(self) -> None:
        """There is a session with a token afterwards, and the system's clock is known. Calls nobody when that
        is so already.
        """
        await self._csrf_token(refused=None)

    async def get(
        self,
        operation: str,
        target: str,
        *,
        accept_statuses: Collection[int] = (),
        page_size: int | None = None,
    ) -> Answer:
        """`target` is relative to the service and may hold a query. `page_size`: what the system is asked to
        give at once; it may give less, and then says where it goes on.
        """
        headers = {} if page_size is None else {"prefer": f"odata.maxpagesize={page_size}"}
        return await self._send(operation, "GET", target, headers=headers, accept_statuses=accept_statuses)

    def list(self, operation: str, target: str, *, entity_set: str) -> AsyncIterator[Mapping[str, object]]:
        """Every entity, following the system's own links."""

        async def fetch(following: str | None) -> ListPage[Mapping[str, object]]:
            answer = await self.get(operation, following or target)
            return ListPage(
                items=self.rows(answer, entity_set), cursor=next_of(answer.json, entity_set=entity_set)
            )

        return walk(fetch)

    def rows(self, answer: Answer, entity_set: str) -> Sequence[Mapping[str, object]]:
        """Of an answer that must list something; Unavailable where it does not."""
        rows = rows_of(answer.json)
        if rows is None:
            raise Unavailable(f"the system's answer lists no {entity_set}", request_id=answer.request_id)
        return rows

    async def create(
        self, operation: str, entity_set: str, body: bytes, *, accept_statuses: Collection[int] = ()
    ) -> Answer:
        """POSTs one entity. A lost answer is OutcomeUnknown."""
        headers = {"content-type": "application/json", "accept": "application/json"}
        return await self._change(
            operation,
            quote(entity_set),
            body,
            headers,
            expects_multipart=False,
            accept_statuses=accept_statuses,
        )

    async def batch(self, operation: str, operations: Sequence[BatchRequest]) -> Sequence[PartAnswer | None]:
        """All in one request, each answered for itself; None for what the system did not get to. A lost or
        unreadable answer is OutcomeUnknown.
        """
        boundary = f"batch_{secrets.token_hex(12)}"
        kind, wanted = (
            (_JSON, _JSON)
            if self._json_batch
            else (f"multipart/mixed; boundary={boundary}", "multipart/mixed")
        )
        body = build_json(operations) if self._json_batch else build(operations, boundary=boundary)
        headers = {"content-type": kind, "accept": wanted, "prefer": "odata.continue-on-error"}
        answer = await self._change(
            operation, "$batch", body, headers, expects_multipart=not self._json_batch, accept_statuses=(413,)
        )
        if answer.status == 413:
            raise BatchRefused(
                f"the system takes no request of {len(body)} bytes: set settings.max_items lower",
                request_id=answer.request_id,
            )
        try:
            if self._json_batch:
                return read_json(answer.json, expected=len(operations))
            return read(answer.headers.get("content-type", ""), answer.body, expected=len(operations))
        except UnreadableBatch as error:
            raise OutcomeUnknown(
                f"the system's $batch answer cannot be read: {self.http.clean(str(error))}",
                request_id=answer.request_id,
            ) from error

    async def _change(
        self,
        operation: str,
        target: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        expects_multipart: bool,
        accept_statuses: Collection[int],
    ) -> Answer:
        """With the token; fetched again and replayed when the system asks for that, for then nothing was
        done. Once, unless requests beside it begin sessions of their own.
        """

        async def send(token: str) -> Answer:
            return await self._send(
                operation,
                "POST",
                target,
                headers={**headers, **({_TOKEN: token} if token else {})},
                content=body,
                accept_statuses=(*accept_statuses, 400, 403),
                expects_multipart=expects_multipart,
            )

        token = await self._csrf_token(refused=None)
        answer = await send(token)
        for _ in range(MAX_TOKENS):
            if not _asks_for_token(answer):
                break
            token = await self._csrf_token(refused=token)
            answer = await send(token)
            # Where cookies came since the token, beside that of the refusal itself, they are of answers to
            # other requests that were under way, and the token was not of the session that they began.
            if answer.cookies_given == self._cookies_with_token + ("set-cookie" in answer.headers):
                break
        if _asks_for_token(answer):
            raise BadConfiguration(
                "the system goes on asking for a CSRF token: something between may take its cookies away",
                request_id=answer.request_id,
            )
        if 200 <= answer.status < 300 or answer.status in accept_statuses:
            return answer
        fault = fault_of(answer.json, text=self.http.text_of(answer), clean=self.http.clean)
        raise self.http.error(
            answer,
            f"POST {self._path}/{target}",
            idempotent=False,
            words=f"{' '.join(fault.codes)} {fault.message}".strip(),
        )

    async def _csrf_token(self, *, refused: str | None) -> str:
        """The session's token; empty where the system gives none. One fetch for all who wait; `refused` asks
        for another than that.
        """
        async with self._fetching:
            if self._token is None or self._token == refused:
                self._token = None
                self._token = await self._fetch_token()
            return self._token

    async def _fetch_token(self) -> str:
        wanted = {_TOKEN: "Fetch"}
        answer = await self._send("csrf", "HEAD", "", headers=wanted, accept_statuses=_TOKEN_STATUSES)
        if _TOKEN not in answer.headers:  # a proxy may block HEAD; a read of nothing opens a session as well
            answer = await self._send("csrf", "GET", f"{quote(self._entity_set)}?$top=0", headers=wanted)
        token = answer.headers.get(_TOKEN, "")
        self._cookies_with_token = answer.cookies_given
        self.http.conceal(token)
        return token

    async def _send(
        self,
        operation: str,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        content: bytes | None = None,
        accept_statuses: Collection[int] = (),
        expects_multipart: bool = False,
    ) -> Answer:
        url = f"{self._path}/{target}"
        if self._query:
            url += ("&" if "?" in url else "?") + self._query

        return await self.http.call(
            operation,
            method,
            url,
            content=content,
            headers=headers,
            accept_statuses=accept_statuses,
            expects="multipart" if expects_multipart else "json",
        )


def _asks_for_token(answer: Answer) -> bool:
    return answer.status == 403 and answer.headers.get(_TOKEN, "").lower() == "required"
