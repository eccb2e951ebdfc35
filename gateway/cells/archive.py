"""The file in which a customer travels: a ZIP of COPY data by table, what is sealed, and a header. What is
sealed in it is so under a key of its own, which both gateways are given.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import orjson
from pydantic import TypeAdapter

from gateway.cells.seals import Seals
from gateway.model.errors import ConfigError
from gateway.store import arriving
from gateway.store.moving_tables import TABLES
from gateway.store.pool import Connection, Session

FORMAT = 1
DAMAGE = (BadZipFile, zlib.error, EOFError, RuntimeError, KeyError, TypeError, ValueError)
"""What reading a file raises that is not as it was written."""

HEADER, SEALS = "header.json", "seals.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an archive says of itself. `position`: where the log ended; `cut`: where the mark on the topic
    `cut_topic` stands in it. `is_whole`: the customer was in force at the source. `columns`: by table.
    """

    format: int
    customer: str
    move: str
    instance: str
    topic_root: str
    brokers: list[str]
    position: int
    cut: int | None
    cut_topic: str
    is_whole: bool
    columns: dict[str, list[str]]


async def write(path: Path, connection: Connection, header: Header, seals: Seals) -> None:
    """The whole file, or none: it is renamed when it is complete. Nobody else may read it."""
    partial = path.with_name(path.name + ".partial")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".customer-") as folder:
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        with ZipFile(partial, "w", ZIP_DEFLATED, compresslevel=1) as packed:
            for table in TABLES:
                rows = Path(folder) / table.name
                header.columns[table.name] = await arriving.write_out(
                    connection, table, header.customer, rows
                )
                packed.write(rows, table.name)
                rows.unlink()
            packed.writestr(SEALS, orjson.dumps(await seals.read(connection, header.customer)))
            packed.writestr(HEADER, orjson.dumps(asdict(header)))
    partial.replace(path)


def header_of(path: Path) -> Header:
    """Raises ConfigError for what is no archive."""
    try:
        with ZipFile(path) as packed:
            found = orjson.loads(packed.read(HEADER))
        if isinstance(found, dict) and found.get("format") not in (None, FORMAT):
            raise ConfigError(f"{path}: is an archive of another version: bring both gateways to one")
        return TypeAdapter(Header).validate_python(found)
    except (OSError, *DAMAGE) as error:
        raise ConfigError(
            f"{path}: is no archive of a customer ({error}); `fieldgate customer export` writes one"
        ) from error


@asynccontextmanager
async def read(path: Path, session: Session, header: Header, seals: Seals) -> AsyncIterator[None]:
    """Its rows are in temporary tables of the session, sealed as the destination does. Raises
    RequestRefused, and ConfigError for one that is damaged.
    """
    try:
        with (
            ZipFile(path) as packed,
            tempfile.TemporaryDirectory(dir=path.parent, prefix=".customer-") as folder,
        ):
            for table in TABLES:
                rows = Path(packed.extract(table.name, folder))
                await arriving.read_in(session, table, header.columns[table.name], rows)
            await seals.put(session, header.customer, orjson.loads(packed.read(SEALS)))
    except DAMAGE as error:
        raise ConfigError(
            f"{path}: is damaged ({error}): export it again; the source keeps everything until it is told to"
            " forget it"
        ) from error
    try:
        yield
    finally:
        await arriving.clear_incoming(session)
