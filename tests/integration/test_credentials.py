"""What is stored of credentials: added, replaced, brought under another key while readers go on, and
announced before it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from gateway.cli.main import build
from gateway.credentials import expiry, rotation
from gateway.credentials.vault import Binding, Vault
from gateway.model.errors import BadConfiguration, SealBroken, StoreRejected
from gateway.model.event import Event, EventType
from gateway.store import credentials, outbox
from gateway.store.pool import Database
from tests.fixtures.credential_rig import CONNECTION, CUSTOMER, connected

NEWEST = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
OLD, BOTH, NEW = Vault(["old"]), Vault([NEWEST, "old"]), Vault([NEWEST])
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


async def opened(
    database: Database, vault: Vault, connection_id: str = CONNECTION, generation: int = 1
) -> dict[str, str]:
    async with database.connection() as connection:
        row = await credentials.read(connection, connection_id=connection_id, generation=generation)
    assert row is not None
    return vault.open(
        row.sealed,
        Binding(customer=CUSTOMER, connection=connection_id, field="credential", generation=generation),
    )


async def with_token(database: Database, connection_id: str, vault: Vault) -> None:
    await connected(database, connection_id=connection_id, vault=vault)
    sealed = vault.seal(
        {"access_token": "a"},
        Binding(customer=CUSTOMER, connection=connection_id, field="token", generation=1),
    )
    async with database.connection() as connection:
        await connection.execute(
            "insert into token (connection_id, generation, sealed, serial) values ($1, 1, $2, 1)",
            connection_id,
            sealed,
        )


async def test_a_generation_is_added_once_and_dropped_with_its_token(database: Database) -> None:
    await with_token(database, CONNECTION, NEW)
    with pytest.raises(StoreRejected):
        await connected(database, vault=NEW)
    await connected(database, vault=NEW, generation=2, values={"api_key": "k2"})
    assert (await opened(database, NEW))["client_id"] == "c"
    async with database.transaction() as connection:
        await credentials.drop_others(connection, connection_id=CONNECTION, keep=[2])
        assert await credentials.read(connection, connection_id=CONNECTION, generation=1) is None
        assert await connection.fetchval("select count(*) from token") == 0
    assert await opened(database, NEW, generation=2) == {"api_key": "k2"}


async def test_keys_rotate_while_readers_go_on(database: Database) -> None:
    """Two replicas rotate at once, readers never meet a record that they cannot open, and a token that is
    stored meanwhile stays.
    """
    names = [f"acme-{number}" for number in range(30)]
    for name in names:
        await with_token(database, name, OLD)
    done = asyncio.Event()

    async def read_on() -> int:
        reads = 0
        while not done.is_set():
            for name in names:
                assert (await opened(database, BOTH, name))["client_id"] == "c"
                reads += 1
        return reads

    reading = asyncio.create_task(read_on())
    fresh = NEW.seal(
        {"access_token": "fresh"},
        Binding(customer=CUSTOMER, connection="acme-7", field="token", generation=1),
    )

    async def store_on() -> None:
        async with database.connection() as connection:
            await connection.execute("update token set sealed = $1 where connection_id = 'acme-7'", fresh)

    first, _, second = await asyncio.gather(
        rotation.rotate(database, BOTH, batch=7), store_on(), rotation.rotate(database, BOTH, batch=7)
    )
    done.set()
    assert await reading >= len(names)
    assert 59 <= first.records + second.records <= 60
    assert not first.broken
    assert [(key.key_id, key.records) for key in await credentials.keys_in_use(database)] == [
        (NEW.newest, 60)
    ]
    assert {(await opened(database, NEW, name))["client_id"] for name in names} == {"c"}
    async with database.connection() as connection:
        assert await connection.fetchval("select sealed from token where connection_id = 'acme-7'") == fresh
    await rotation.check_keys(database, NEW)


async def test_what_no_key_opens_is_named_and_does_not_stop_the_rest(database: Database) -> None:
    await connected(database, connection_id="acme-1", vault=Vault(["forgotten"]))
    await connected(database, connection_id="acme-2", vault=OLD)
    rotated = await rotation.rotate(database, BOTH, batch=1)
    assert (rotated.records, rotated.broken) == (1, ("acme-1",))
    with pytest.raises(SealBroken, match=r"'acme-1'.*security\.encryption_keys.*put that key back"):
        await rotation.check_keys(database, BOTH)


async def test_the_commands(
    database: Database, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSN", dsn)
    monkeypatch.setenv("NEWEST", NEWEST)
    monkeypatch.setenv("OLDER", "old")
    config = tmp_path / "fieldgate.yaml"
    config.write_text(
        'database: {dsn: "${env:DSN}"}\nsecurity: {encryption_keys: ["${env:NEWEST}", "${env:OLDER}"]}\n'
    )
    await connected(database, vault=OLD)

    async def run(*arguments: str) -> str:
        result = await asyncio.to_thread(
            CliRunner().invoke, build(["keys"]), ["keys", *arguments, "--config", str(config)]
        )
        assert result.exit_code == 0, result.output
        return result.output

    assert [line.split()[:2] for line in (await run()).splitlines()] == [[NEW.newest, "0"], [OLD.newest, "1"]]
    assert "1 record is" in await run("rotate")
    assert [line.split()[:2] for line in (await run()).splitlines()] == [[NEW.newest, "1"], [OLD.newest, "0"]]
    assert f'"key":"{NEW.newest}","records":1,"newest":true,"configured":true' in await run("--json")


async def told(database: Database) -> Sequence[Event]:
    return await outbox.read(database, customer=CUSTOMER)


async def announced(database: Database, at: datetime) -> list[tuple[str, str, int]]:
    results: Sequence[Sequence[credentials.Expiring]] = await asyncio.gather(
        *(expiry.expiring(database, at) for _ in range(3))
    )
    return [(found.connection, found.customer, found.days) for result in results for found in result]


async def test_an_end_is_announced_seven_days_and_one_day_ahead_once_each(database: Database) -> None:
    await connected(database)
    await connected(database, connection_id="acme-2")
    async with database.connection() as connection:
        await connection.execute(
            "update credential set expires_at = $1 where connection_id = $2",
            NOW + timedelta(days=30),
            CONNECTION,
        )
    days = [
        announced_at
        for day in range(31)
        for announced_at in await announced(database, NOW + timedelta(days=day))
    ]
    assert days == [(CONNECTION, CUSTOMER, 7), (CONNECTION, CUSTOMER, 1)]
    events = await told(database)
    assert [event.type for event in events] == [EventType.CONNECTION_CREDENTIAL_EXPIRING] * 2
    assert events[0].data == {
        "credential_type": "oauth2_authorization_code",
        "what": "credential",
        "expires_at": (NOW + timedelta(days=30)).isoformat(),
        "days": 7,
    }
    assert events[0].connection == CONNECTION


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("update credential set generation = 9", []),  # not the generation in use
        ("update connection set state = 'disconnected'", []),
        ("update connection set state = 'reauthorization_required'", [(CONNECTION, CUSTOMER, 1)]),
    ],
)
async def test_only_what_is_in_use_is_announced(
    database: Database, change: str, said: list[tuple[str, str, int]]
) -> None:
    await connected(database)
    async with database.connection() as connection:
        await connection.execute("update credential set expires_at = $1", NOW + timedelta(hours=3))
        await connection.execute(change)
    assert await announced(database, NOW) == said


@pytest.mark.parametrize(
    ("obtained", "ends", "fixed", "said"),
    [
        (
            timedelta(days=-24),
            timedelta(days=6),
            False,
            [7],
        ),  # given for a month, and no refresh came for weeks
        (timedelta(0), timedelta(days=6), True, [7]),  # each refresh leaves the end where it is
        (timedelta(0), timedelta(hours=2), True, [1]),
        (
            timedelta(0),
            timedelta(minutes=30),
            False,
            [],
        ),  # each refresh moves the end: nothing is about to happen
        (timedelta(days=-1), timedelta(days=60), False, []),
    ],
)
async def test_a_refresh_token_that_is_renewed_in_time_is_not_announced(
    database: Database, obtained: timedelta, ends: timedelta, fixed: bool, said: list[int]
) -> None:
    await with_token(database, CONNECTION, NEW)
    async with database.connection() as connection:
        await connection.execute(
            "update token set obtained_at = $1, refresh_expires_at = $2, refresh_is_fixed = $3",
            NOW + obtained,
            NOW + ends,
            fixed,
        )
    assert [days for _, _, days in await announced(database, NOW)] == said
    assert await announced(database, NOW) == []
    assert [event.data["what"] for event in await told(database)] == ["refresh_token"] * len(said)


async def test_a_refresh_shows_whether_the_end_of_the_refresh_token_moves(database: Database) -> None:
    from gateway.store import tokens
    from gateway.store.tokens import Lifetimes

    await connected(database)
    fixed = []
    for refresh_lifetime in (86400.0 * 30, 86400.0 * 30 - 5, None, 86400.0 * 60):
        lease = await tokens.claim(database, CONNECTION, 1, "one", 10, lapsed=None)
        assert lease is not None
        lifetimes = Lifetimes(
            expires_in_seconds=60, refresh_in_seconds=48, refresh_token_expires_in_seconds=refresh_lifetime
        )
        assert await tokens.store(database, CONNECTION, 1, lease.fence, b"\x01keyid", lifetimes) is not None
        async with database.connection() as connection:
            fixed.append(await connection.fetchval("select refresh_is_fixed from token"))
    assert fixed == [False, True, True, False]


def certificate(days: int) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(days)
    )
    signed = (
        builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=days)).sign(key, hashes.SHA256())
    )
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def test_when_a_credential_ends() -> None:
    assert expiry.ends_at(
        "client_certificate", {"certificate": certificate(90) + certificate(30)}
    ) == NOW + timedelta(days=30)
    assert expiry.ends_at("api_key", {"api_key": "k", "expires_at": "2027-03-01T01:00:00+01:00"}) == datetime(
        2027, 3, 1, tzinfo=UTC
    )
    assert expiry.ends_at("api_key", {"api_key": "k"}) is None
    for kind, values in (
        ("client_certificate", {"certificate": "canary"}),
        ("client_certificate", {}),
        ("api_key", {"expires_at": "canary"}),
    ):
        with pytest.raises(BadConfiguration) as caught:
            expiry.ends_at(kind, values)
        assert "canary" not in str(caught.value)
    with pytest.raises(BadConfiguration, match="zone"):
        expiry.ends_at("api_key", {"expires_at": "2027-03-01T00:00:00"})
