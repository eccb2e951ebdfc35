"""Tryton's REST interface of one database: reading, creating and changing records, and what its refusals
mean.

It must not know what the records are about. Source: Tryton, "REST API" (trytond), 8.2: routes, queries,
status codes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from connectors.kit.answer import Answer
from connectors.kit.bisect import BatchRefusal
from connectors.kit.http import HttpClient
from connectors.kit.json_text import write_json
from gateway.model.errors import (
    BadConfiguration,
    ConnectorError,
    OutcomeUnknown,
    PermissionDenied,
    Unavailable,
)

_CHANGE_STATUSES = (400, 403, 409, 413, 423)
# What the user may not do is refused in these words for a single record (they are asked for in English): a
# right that is missing
# altogether, or a rule about records. For several at once it is a 403 in the words of Tryton's HTTP library,
# which do not tell the two
# apart. Any other 403 was given by something between.
_NO_RIGHT = 'You are not allowed to access "'
_RULE_OF_RECORDS = "You are not allowed to create records of "
_MAY_NOT = b"read-protected or not readable by the server"


class Rest:
    """Calls of one key."""

    def __init__(self, http: HttpClient, database: str) -> None:
        self.http = http
        self._root = f"/{quote(database)}/rest/model"

    async def search(
        self,
        operation: str,
        model: str,
        *,
        fields: Sequence[str],
        domain: Sequence[object] = (),
        limit: int,
        page: bool = False,
    ) -> list[Mapping[str, object]]:
        """Records of a short domain. With `page` ascending by id: the next page begins behind the last id."""
        query = [f"s={limit}", *(f"f={quote(name)}" for name in fields)]
        if domain:
            query.append(f"d={_encode(domain)}")
        if page:
            query.append(f"o={_encode([['id', 'ASC']])}")
        return _rows(await self.http.call(operation, "GET", f"{self._root}/{model}?{'&'.join(query)}"))

    async def search_long(
        self,
        operation: str,
        model: str,
        *,
        fields: Sequence[str],
        domain: Sequence[object],
        limit: int | None = None,
    ) -> list[Mapping[str, object]]:
        """The same where the domain would be too long for an address; ascending by id. Fields with dots come
        as `field.`.
        """
        body: dict[str, object] = {"domain": domain, "fields_names": fields, "order": [["id", "ASC"]]}
        if limit is not None:
            body["limit"] = limit
        return _rows(
            await self.http.call(
                operation, "POST", f"{self._root}/{model}/search_read", json=body, idempotent=True
            )
        )

    async def create(
        self, operation: str, model: str, records: Sequence[Mapping[str, object]]
    ) -> Sequence[int]:
        """All in one transaction: the ids, in order. Raises Refusal when Tryton refuses them;
        PermissionDenied of a single one only.
        """
        if len(records) == 1:
            row = await self.create_one(operation, model, records[0], fields=["id"])
            return [_id(row)]
        created = await self._change(operation, "POST", f"{model}/create", {"vlist": records})
        if not isinstance(created, list) or len(created) != len(records):
            raise OutcomeUnknown("Tryton's answer does not name each record that it was sent")
        return [_id({"id": number}) for number in created]

    async def create_one(
        self, operation: str, model: str, record: Mapping[str, object], *, fields: Sequence[str]
    ) -> object:
        """The record with these fields."""
        query = "&".join(f"f={quote(name)}" for name in fields)
        return await self._change(operation, "POST", f"{model}?{query}", record)

    async def change(self, operation: str, model: str, record: int, values: Mapping[str, object]) -> None:
        """Writes fields of one record. Doing it again is harmless."""
        await self._change(operation, "PUT", f"{model}/{record}", values, idempotent=True)

    async def _change(
        self, operation: str, method: str, path: str, body: object, *, idempotent: bool = False
    ) -> object:
        answer = await self.http.call(
            operation,
            method,
            f"{self._root}/{path}",
            json=body,
            idempotent=idempotent,
            accept_statuses=_CHANGE_STATUSES,
        )
        if answer.status in _CHANGE_STATUSES:
            raise self._refusal(answer, f"{method} {path.partition('?')[0]}")
        return answer.json

    def _refusal(self, answer: Answer, call: str) -> ConnectorError:
        """Everything was undone. 409 asks a person to confirm something; 423 met another transaction."""
        message, description = _words(answer.json)
        said = "the data is too large" if answer.status == 413 else self.http.text_of(answer)
        words = self.http.clean(f"{message} {description}".strip() or said)
        text = f"Tryton answered {answer.status} to {call}: {words}"
        if answer.status == 423:
            return Unavailable(text, request_id=answer.request_id)
        if answer.status == 400 and message.startswith(_NO_RIGHT):
            return PermissionDenied(text, request_id=answer.request_id)
        if answer.status == 403 and _MAY_NOT not in answer.body:
            return self.http.error(answer, call, idempotent=False)
        if answer.status == 400 and not message:
            return BadConfiguration(
                f"{text}; is settings.base_url a Tryton server of series 8.2 or later?",
                request_id=answer.request_id,
            )
        return BatchRefusal(
            words,
            code=str(answer.status),
            blames_meter=message.startswith(_RULE_OF_RECORDS),
            request_id=answer.request_id,
        )


def _encode(value: object) -> str:
    return quote(base64.urlsafe_b64encode(write_json(value)).decode())  # with its padding: Tryton insists


def _id(row: object) -> int:
    number = row.get("id") if isinstance(row, dict) else None
    if not isinstance(number, int):
        raise OutcomeUnknown("Tryton's answer does not name the record that it was sent")
    return number


def _rows(answer: Answer) -> list[Mapping[str, object]]:
    if not isinstance(answer.json, list):
        raise Unavailable("Tryton's answer lists no records", request_id=answer.request_id)
    return [row for row in answer.json if isinstance(row, dict)]


def _words(document: object) -> tuple[str, str]:
    if not isinstance(document, dict):
        return "", ""
    message, description = document.get("message"), document.get("description")
    return (
        message[:400] if isinstance(message, str) else "",
        description[:400] if isinstance(description, str) else "",
    )
