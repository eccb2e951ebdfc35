"""Builds and reads `$batch`: many operations in one request, each answered for itself. As multipart, which
versions 2 and 4 write the same, or as JSON. Pure.

In multipart every change is a changeset of its own: a changeset is taken or undone as a whole, so a neighbour
would share a refusal. Source: OData Version 4.0 Part 1, 11.7; OData JSON Format Version 4.01, 19; OData
Version 2 "Batch Processing"; RFC 2046, 5.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from connectors.kit.json_text import parse_json, write_json

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,200})"|([^";,\s]{1,200}))', re.IGNORECASE)
_STATUS = re.compile(rb"HTTP/\d\.\d (\d{3})\b")
_NEWLINE = 0x0A
_HEAD_END = re.compile(rb"(?:\A|\r?\n)\r?\n")  # at once, where there are no headers


class UnreadableBatch(ValueError):
    """An answer that is no `$batch` answer, or answers something else than what was asked: nothing can be
    said of any operation.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """One request inside: a change when it has a `body` (JSON), else a query. `target` is relative to the
    service and percent-encoded.
    """

    target: str
    body: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartAnswer:
    """One answer inside. `json` is None where the body is not JSON."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    json: object


def build(operations: Sequence[BatchRequest], *, boundary: str) -> bytes:
    """The body of the request; its content type is `multipart/mixed; boundary=<boundary>`."""
    pieces: list[bytes] = []
    for number, operation in enumerate(operations, 1):
        part = (
            "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\nContent-ID:"
            f" {number}\r\n\r\n"
        )
        if operation.body is None:
            pieces.append(
                f"--{boundary}\r\n{part}GET {operation.target} HTTP/1.1\r\nAccept:"
                " application/json\r\n\r\n\r\n".encode()
            )
            continue
        changeset = f"{boundary}_{number}"
        inner = (
            "Content-Type: application/json\r\nAccept: application/json\r\nContent-Length:"
            f" {len(operation.body)}\r\n\r\n"
        )
        pieces.append(
            f"--{boundary}\r\nContent-Type: multipart/mixed; boundary={changeset}\r\n\r\n"
            f"--{changeset}\r\n{part}POST {operation.target} HTTP/1.1\r\n{inner}".encode()
        )
        pieces += (operation.body, f"\r\n--{changeset}--\r\n".encode())
    pieces.append(f"--{boundary}--\r\n".encode())
    return b"".join(pieces)


def read(content_type: str, body: bytes, *, expected: int) -> list[PartAnswer | None]:
    """The answers by position, `expected` of them; None for those that the system did not get to. Raises
    Unreadable.

    A change that succeeded comes inside a multipart of its own, one that was refused as a bare part; some
    servers do otherwise.
    """
    answers: list[PartAnswer | None] = []
    for part in _parts(body, _boundary(content_type)):
        headers, rest = _head(part)
        inner = headers.get("content-type", "")
        nested = (
            list(_parts(rest, _boundary(inner))) if inner.lower().startswith("multipart/mixed") else [part]
        )
        if len(nested) != 1:
            raise UnreadableBatch(f"an answer of {len(nested)} parts to one operation")
        answers.append(_answer(nested[0], position=len(answers) + 1))
    if len(answers) > expected:
        raise UnreadableBatch(f"{len(answers)} answers to {expected} operations")
    return answers + [None] * (expected - len(answers))


def build_json(operations: Sequence[BatchRequest]) -> bytes:
    """The body of the request in JSON. A request that belongs to no group is taken or undone for itself."""
    requests: list[dict[str, object]] = []
    for number, operation in enumerate(operations, 1):
        headers = {"accept": "application/json"}
        request: dict[str, object] = {
            "id": str(number),
            "method": "GET",
            "url": operation.target,
            "headers": headers,
        }
        if operation.body is not None:
            headers["content-type"] = "application/json"
            request |= {"method": "POST", "body": orjson.Fragment(operation.body)}
        requests.append(request)
    return orjson.dumps({"requests": requests})


def read_json(document: object, *, expected: int) -> list[PartAnswer | None]:
    """As `read`. Answers may come in any order, by their `id`; those of a service that gives none in the
    order of the requests.
    """
    responses = document.get("responses") if isinstance(document, dict) else None
    if not isinstance(responses, list) or len(responses) > expected:
        raise UnreadableBatch("no list of answers, or a longer one than what was asked")
    answers: list[PartAnswer | None] = [None] * expected
    for position, response in enumerate(responses, 1):
        status = response.get("status") if isinstance(response, dict) else None
        if not isinstance(response, dict) or not isinstance(status, int):
            raise UnreadableBatch("an answer without a status")
        said = response.get("id")
        number = 0  # no answer has it
        if said is None:
            number = position
        elif isinstance(said, str) and said.isascii() and said.isdigit() and len(said) < 10:
            number = int(said)
        if not 1 <= number <= expected or answers[number - 1] is not None:
            raise UnreadableBatch(
                f"an answer to operation {str(said)[:20]!r}, which was not asked or is answered already"
            )
        headers, body = response.get("headers"), response.get("body")
        answers[number - 1] = PartAnswer(
            status=status,
            headers=(
                {str(name).lower(): str(value) for name, value in headers.items()}
                if isinstance(headers, dict)
                else {}
            ),
            body=b"" if body is None else write_json(body),
            json=body,
        )
    return answers


def _boundary(content_type: str) -> bytes:
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise UnreadableBatch("a multipart answer without a boundary")
    return (found[1] or found[2]).encode("latin-1", "replace")


def _parts(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """What lies between the delimiters. A body whose closing delimiter is missing was cut.

    By hand: every answered changeset has a boundary of its own, and compiling an expression for each would
    take most of the time.
    """
    delimiter = b"--" + boundary
    begin, position = None, 0
    while (found := body.find(delimiter, position)) >= 0:
        position = found + len(delimiter)
        line_end = body.find(b"\n", position)
        tail = body[position : len(body) if line_end < 0 else line_end].rstrip()
        if (found and body[found - 1] != _NEWLINE) or tail not in (b"", b"--"):
            continue  # it only begins like ours
        if begin is not None:
            yield body[begin:found].removesuffix(b"\n").removesuffix(b"\r").lstrip(b"\r\n")
        if tail == b"--":
            return
        begin = position = len(body) if line_end < 0 else line_end + 1
    raise UnreadableBatch("a multipart answer without its end")


def _head(part: bytes) -> tuple[Mapping[str, str], bytes]:
    found = _HEAD_END.search(part)
    head, rest = (part, b"") if found is None else (part[: found.start()], part[found.end() :])
    pairs = (line.partition(":") for line in head.decode("latin-1").splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in pairs if value}, rest


def _answer(part: bytes, *, position: int) -> PartAnswer:
    outer, http = _head(part)
    line, _, tail = http.lstrip(b"\r\n").partition(b"\n")
    status = _STATUS.match(line)
    if status is None:
        raise UnreadableBatch("a part that is no HTTP answer")
    headers, body = _head(tail)
    said = outer.get("content-id") or headers.get("content-id")
    if said is not None and said != str(position):
        raise UnreadableBatch(f"answer {position} says that it belongs to operation {said[:20]!r}")
    body = body.strip()
    return PartAnswer(status=int(status[1]), headers=headers, body=body, json=parse_json(body))
