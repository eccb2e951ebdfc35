"""What several cells say of themselves, over their APIs: credits, connections by state, customers. A cell
that does not answer is told with the others, and stops none of them.
"""

from __future__ import annotations

import asyncio
import http.client
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import orjson
from pydantic import Field, ValidationError

from gateway.configuration.document import LocatedDocument
from gateway.configuration.fault import Faults
from gateway.configuration.shape import faults_of
from gateway.model.errors import ConfigError, FieldgateError
from gateway.settings_base import Identifier, Section

TIMEOUT_SECONDS = 10.0
PAGE = 500
MAX_PAGES = 1_000


class CellSettings(Section):
    """One cell: where its API is, and a token of a viewer of all customers."""

    name: Identifier
    url: Annotated[str, Field(pattern=r"^https?://[^/\s@?#]+$")]
    token_file: str
    customers: tuple[Identifier, ...] = ()


class CellsFile(Section):
    """The file of cells."""

    cells: Annotated[tuple[CellSettings, ...], Field(min_length=1, max_length=1_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellAnswer:
    """Of one cell. `fault`: why there is none; then all else is empty. `connections`: customer by id."""

    cell: CellSettings
    fault: str | None = None
    capacity: int | None = None
    held: int = 0
    posted: int = 0
    available: int | None = None
    states: Mapping[str, int]
    connections: Mapping[str, str]


class NoAnswer(FieldgateError):
    """A cell did not answer as one does."""


def read_file(path: Path) -> CellsFile:
    """Raises ConfigError for a file that cannot be used, with where it is wrong."""
    document = LocatedDocument.read(path, advice="name a YAML file with `cells`")
    if document.faults:
        raise Faults(document.faults)
    try:
        found = CellsFile.model_validate(document.data)
    except ValidationError as error:
        raise Faults(faults_of(error, CellsFile, document)) from None
    names = Counter(cell.name for cell in found.cells)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(f"{path}: two cells are called {twice[0]!r}")
    return found


async def ask_all(file: CellsFile, folder: Path) -> list[CellAnswer]:
    """Every cell at once, in the order of the file. Token files are relative to `folder`."""
    return list(await asyncio.gather(*(asyncio.to_thread(_ask, cell, folder) for cell in file.cells)))


def _ask(cell: CellSettings, folder: Path) -> CellAnswer:
    try:
        token = (folder / cell.token_file).read_text().strip()
        credits_held = _get(cell, token, "/v1/credits", {})
        found: list[Mapping[str, Any]] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            query = {"limit": str(PAGE), "rules": "false"} | ({} if cursor is None else {"cursor": cursor})
            page = _get(cell, token, "/v1/connections", query)
            found += page["items"]
            cursor = page["next"]
            if cursor is None:
                break
        return CellAnswer(
            cell=cell,
            capacity=credits_held["capacity"],
            held=credits_held["held"],
            posted=credits_held["posted"],
            available=credits_held["available"],
            states=dict(Counter(one["state"] for one in found)),
            connections={one["id"]: one["customer"] for one in found},
        )
    except (OSError, NoAnswer, KeyError, TypeError, UnicodeDecodeError, http.client.HTTPException) as error:
        return CellAnswer(cell=cell, fault=_reason(error), states={}, connections={})


class _Stay(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: the token is for this cell alone."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stay())


def _get(cell: CellSettings, token: str, path: str, query: Mapping[str, str]) -> dict[str, Any]:
    address = f"{cell.url}{path}" + (f"?{urlencode(query)}" if query else "")
    # http or https, by the model of the file
    request = urllib.request.Request(address, headers={"authorization": f"Bearer {token}"})  # noqa: S310
    try:
        with _OPENER.open(request, timeout=TIMEOUT_SECONDS) as answer:
            found = orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        advice = "; give it a token of all customers" if error.code in {401, 403} else ""
        raise NoAnswer(f"{path} is answered with {error.code}{advice}") from error
    except ValueError as error:
        raise NoAnswer(f"{path} is answered with what is no JSON") from error
    if not isinstance(found, dict):
        raise NoAnswer(f"{path} is answered with what is no document")
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError | TypeError):
        return "its answer is not that of a gateway of this version"
    return str(getattr(error, "reason", None) or error)


def twice(answers: Sequence[CellAnswer]) -> list[str]:
    """Customers that more than one cell has: one that is being moved, or is listed wrongly."""
    cells: dict[str, set[str]] = {}
    for answer in answers:
        for customer in {*answer.connections.values(), *answer.cell.customers}:
            cells.setdefault(customer, set()).add(answer.cell.name)
    return sorted(customer for customer, names in cells.items() if len(names) > 1)
