"""The PostgreSQL connector against what is no PostgreSQL, and in a process whose environment speaks of
others.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from connectors.postgres.connector import PostgresConnector
from gateway.model.connector import ConnectorSettings
from gateway.model.errors import BadConfiguration, ConnectorError, PermissionDenied
from gateway.model.reading import make_batch
from tests.contract.harness import CONNECTION, reading, recent

BATCH = make_batch(CONNECTION, [reading(f"m{number}", recent(), float(number)) for number in range(3)])


def sink(dsn: str, **settings: object) -> PostgresConnector:
    return PostgresConnector(
        ConnectorSettings(
            connection=CONNECTION,
            hosting="cloud",
            settings=settings,
            credentials={"dsn": dsn},
            timeout_seconds=2.0,
        )
    )


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


READY = message(b"Z", b"I")
SETTINGS = b"".join(
    message(b"S", each) for each in (b"server_version\x0016.0\x00", b"client_encoding\x00UTF8\x00")
)
HELLO = message(b"R", struct.pack("!i", 0)) + SETTINGS + message(b"K", b"\0" * 8) + READY
ODD_BODIES = (
    b"",
    b"\0",
    b"\xff" * 4,
    b"SERROR\0C28P01\0Mno\0\0",
    b"SFATAL\0C" + b"\xff" * 5 + b"\0\0",
    struct.pack("!h", 3),
    struct.pack("!i", 10) + b"SCRAM-SHA-256\0\0",
    struct.pack("!i", 5) + b"salt",
    struct.pack("!i", 12),
    struct.pack("!hI", 1, 2**31),
    b"client_encoding\0\xff\0",
    b"server_version\0odd\0",
)


def odd_message(rng: random.Random) -> bytes:
    body = rng.choice(ODD_BODIES) if rng.random() < 0.9 else rng.randbytes(rng.randrange(40))
    made = message(bytes([rng.choice(b"RSKZTDCEN123tnsIAGW")]), body)
    return made if rng.random() < 0.8 else made[: rng.randrange(len(made))] + rng.randbytes(3)


@asynccontextmanager
async def odd_server(rng: random.Random) -> AsyncIterator[int]:
    """Speaks some of the protocol, more or less well, and leaves."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65536):
                if rng.random() < 0.1:
                    writer.write(rng.choice([b"N", b"S", b"E", b"HTTP/1.1 400 Bad\r\n\r\n", b"\0"]))
                writer.write(HELLO if rng.random() < 0.5 else b"")
                writer.write(
                    b"".join(odd_message(rng) for _ in range(rng.randrange(4)))
                    + (READY if rng.random() < 0.5 else b"")
                )
                await writer.drain()
                if rng.random() < 0.5:
                    break
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def _is_fair(error: ConnectorError) -> None:
    assert "hidden" not in str(error)


async def odd_calls(count: int, seed: int) -> None:
    rng = random.Random(seed)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # what the driver logs of its own tasks
    async with odd_server(rng) as port:
        for number in range(count):
            mode = rng.choice(["disable", "disable", "prefer", "require"])
            connector = PostgresConnector(
                ConnectorSettings(
                    connection=CONNECTION,
                    hosting="cloud",
                    settings={},
                    credentials={"dsn": f"postgresql://role:hidden@127.0.0.1:{port}/d?sslmode={mode}"},
                    timeout_seconds=0.3,
                )
            )
            try:
                match rng.randrange(3):
                    case 0:
                        await connector.probe()
                    case 1:
                        await connector.push(BATCH)
                    case _:
                        await connector.find(BATCH.readings)
            except ConnectorError as error:
                _is_fair(error)
            except Exception as error:
                raise AssertionError(
                    f"seed {seed}, call {number}: {type(error).__name__}: {error}"
                ) from error
            finally:
                await connector.close()


# The driver's own object, left half made.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_what_is_no_postgresql_raises_nothing_but_our_errors() -> None:
    await odd_calls(150, 1)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 12))
async def test_hundreds_of_odd_calls(seed: int) -> None:
    await odd_calls(500, seed)


async def test_nothing_is_taken_from_the_environment_or_a_file(
    contract_dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / ".postgresql").mkdir(parents=True)
    for name in ("root.crt", "root.crl", "postgresql.crt", "postgresql.key"):
        (home / ".postgresql" / name).write_text("no certificate")
    (tmp_path / "service").write_text("[other]\nhost=other.invalid\nuser=other\n")
    (tmp_path / "pass").write_text("*:*:*:*:wrong\n")
    (tmp_path / "pass").chmod(0o600)
    for name, value in {
        "HOME": str(home), "PGHOST": "other.invalid", "PGPORT": "1", "PGUSER": "other", "PGPASSWORD": "wrong", "PGDATABASE": "other",
        "PGPASSFILE": str(tmp_path / "pass"), "PGSERVICE": "other", "PGSERVICEFILE": str(tmp_path / "service"), "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(tmp_path / "none"), "PGSSLCERT": str(tmp_path / "none"), "PGSSLKEY": str(tmp_path / "none"), "PGSSLCRL": str(tmp_path / "none"),
        "PGTARGETSESSIONATTRS": "standby", "PGKRBSRVNAME": "x", "PGGSSLIB": "nonsense", "PGSSLNEGOTIATION": "nonsense",
        "PGSSLMINPROTOCOLVERSION": "nonsense", "PGSSLMAXPROTOCOLVERSION": "nonsense", "PGOPTIONS": "-c search_path=x",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for mode in ("prefer", "disable"):
        connector = sink(f"{contract_dsn}?sslmode={mode}", table="of_nowhere_else")
        health = await connector.probe()
        address = urlsplit(contract_dsn)
        assert health.account == f"owner@127.0.0.1:{address.port}/postgres"
        await connector.close()
    without = contract_dsn.replace("/postgres", "")
    connector = sink(
        without.replace("owner:", "guest:"), table="of_nowhere_else"
    )  # the database is the role's, not PGDATABASE
    with pytest.raises(ConnectorError) as caught:
        await connector.probe()
    assert "other" not in str(caught.value)
    await connector.close()


@pytest.mark.parametrize("part", ["role", "host", "port", "database"])
async def test_an_account_is_role_host_port_and_database(contract_dsn: str, part: str) -> None:
    connector = sink(contract_dsn)
    other = sink(
        {
            "role": contract_dsn.replace("owner:", "someone:"),
            "host": contract_dsn.replace("127.0.0.1", "localhost"),
            "port": contract_dsn.replace(f":{urlsplit(contract_dsn).port}/", ":1/"),
            "database": contract_dsn + "2",
        }[part]
    )
    account = (await connector.probe()).account
    assert account is not None and "not-a-secret" not in account
    assert (
        account
        != f"{other._address.user}@{other._address.host}:{other._address.port}/{other._address.database}"
    )
    for each in (connector, other):
        await each.close()


async def test_a_role_that_may_only_select_is_denied_at_the_probe(contract_dsn: str) -> None:
    owner = await asyncpg.connect(contract_dsn)
    maker = sink(contract_dsn, table="looked_at")
    await maker.probe()
    await maker.close()
    await owner.execute(
        "create role looker login password 'looker'; grant usage on schema public to looker; grant select on"
        " looked_at to looker"
    )
    connector = sink(contract_dsn.replace("owner:not-a-secret", "looker:looker"), table="looked_at")
    try:
        for grant in (None, "insert", "update"):
            if grant is not None:
                await owner.execute(f"grant {grant} on looked_at to looker")
            if grant == "update":
                await connector.probe()
            else:
                with pytest.raises(PermissionDenied, match="select, insert and update"):
                    await connector.probe()
    finally:
        await connector.close()
        await owner.execute("drop owned by looker; drop role looker; drop table looked_at")
        await owner.close()


def test_a_dsn_that_was_stored_before_the_rules_is_a_configuration_fault() -> None:
    with pytest.raises(BadConfiguration) as caught:
        sink("postgresql://role:hid/zzz@h/d?sslmode=parse")
    assert "percent-encode" in str(caught.value) and "zzz" not in str(caught.value)
