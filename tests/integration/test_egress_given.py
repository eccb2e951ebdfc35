"""What a customer gives by the API or a reconnect link is judged when it is given and kept with who gave it;
what the operator gives goes where the operator says.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Any

import pytest

from connectors.registry import SYSTEMS
from gateway.connections.screening import reach_of
from gateway.model.access import Caller, Origin, Role
from gateway.settings import EgressSettings
from gateway.store.migrate import migrations
from gateway.store.pool import Database
from tests.contract.pki import make_authority
from tests.fixtures.canary import Names, canary
from tests.fixtures.connection_rig import World, settings
from tests.fixtures.http_rig import served

OPERATOR = Caller(name="file")
NAMES = Names(
    {
        "api.example": [["93.184.216.34"]],
        "login.example": [["93.184.216.34"]],
        "inner.corp": [["10.20.0.5"]],
        "both.example": [["93.184.216.34", "10.20.0.5"]],
        "meta.example": [["169.254.169.254"]],
        "127.0.0.1": [["127.0.0.1"]],
        "2130706433": [["127.0.0.1"]],
        "10.20.0.5": [["10.20.0.5"]],
        "::ffff:10.20.0.5": [["::ffff:10.20.0.5"]],
        "localhost": [["::1", "127.0.0.1"]],
    }
)


async def world_of(database: Database, **networks: Any) -> World:
    allowing = settings(egress=EgressSettings(**networks))
    world = World(database, settings=allowing, more_systems=SYSTEMS, resolve=NAMES)
    await world.engine.prepare()
    return world


@pytest.fixture
async def world(database: Database) -> World:
    return await world_of(database)


def document(name: str = "acme-1", **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "customer": "acme",
        "system": "http_json",
        "settings": {"base_url": "https://api.example"},
        "credentials": {"type": "api_key", "api_key": "k" * 32},
        **changes,
    }


def oauth(**urls: str) -> dict[str, Any]:
    given = {"type": "oauth2_client_credentials", "client_id": "c", "client_secret": "s" * 16}
    return {**given, "token_url": "https://login.example/token", **urls}


def dsn(text: str) -> dict[str, Any]:
    return {"system": "postgres", "settings": {}, "credentials": {"type": "dsn", "dsn": text}}


PRIVATE: dict[str, dict[str, Any]] = {
    "base_url": {"settings": {"base_url": "https://10.20.0.5"}},
    "name": {"settings": {"base_url": "https://inner.corp/x"}},
    "loopback": {"settings": {"base_url": "http://127.0.0.1:8080"}},
    "localhost": {"settings": {"base_url": "http://localhost:5432"}},
    "decimal": {"settings": {"base_url": "https://2130706433"}},
    "mapped": {"settings": {"base_url": "https://[::ffff:10.20.0.5]"}},
    "metadata": {"settings": {"base_url": "https://meta.example"}},
    "token_url": {"credentials": oauth(token_url="https://inner.corp/token")},
    "dsn": dsn("postgresql://u:s3cret@inner.corp/d"),
}


async def origins(world: World) -> tuple[str, list[str]]:
    (row,) = await world.rows("select origin from connection")
    given = await world.rows("select origin from credential order by generation")
    return row["origin"], [one["origin"] for one in given]


@pytest.mark.parametrize("changes", PRIVATE.values(), ids=PRIVATE)
async def test_a_customers_token_gives_no_private_address(world: World, changes: dict[str, Any]) -> None:
    """The operator's may, for there on-premises systems live."""
    async with served(world, Role.ADMIN, customer="acme") as client:
        answer = await client.post("/v1/connections", json=document(**changes))
        assert answer.status_code == 422 and "egress.allow" in answer.text
        assert "10.20.0.5" not in answer.text or "10.20.0.5" in str(changes)
        assert "s3cret" not in answer.text
    assert await world.rows("select from connection") == []
    async with served(world, Role.ADMIN) as client:
        assert (await client.post("/v1/connections", json=document(**changes))).status_code == 201
    assert await origins(world) == ("trusted", ["trusted"])


async def test_what_is_public_or_allowed_is_taken_and_kept_as_the_customers(database: Database) -> None:
    world = await world_of(
        database, allow=(ip_network("192.168.0.0/16"),), customers={"acme": (ip_network("10.20.0.0/16"),)}
    )
    for number, host in enumerate(("api.example", "both.example", "inner.corp", "unknown.example")):
        async with served(world, Role.ADMIN, customer="acme") as client:
            await world.execute("update api_token set name = token_id")
            given = document(f"acme-{number}", settings={"base_url": f"https://{host}"})
            assert (await client.post("/v1/connections", json=given)).status_code == 201
    assert {row["origin"] for row in await world.rows("select origin from connection")} == {"bound"}
    assert not reach_of(world.settings, "globex", Origin.BOUND).covers("10.20.0.5")
    assert reach_of(world.settings, "globex", Origin.BOUND).covers("192.168.7.1")
    async with served(world, Role.ADMIN, customer="globex") as client:
        given = document("globex-1", customer="globex", settings={"base_url": "https://inner.corp"})
        assert (await client.post("/v1/connections", json=given)).status_code == 422


async def test_the_gateways_own_database_is_refused_where_it_is_given(database: Database) -> None:
    world = await world_of(database, allow=(ip_network("127.0.0.0/8"),))
    async with served(world, Role.ADMIN, customer="acme") as client:
        for host in ("127.0.0.1", "2130706433"):
            answer = await client.post(
                "/v1/connections", json=document(**dsn(f"postgresql://u:p@{host}/fieldgate"))
            )
            assert answer.status_code == 422 and "own database" in answer.text
        other = document(**dsn("postgresql://u:p@127.0.0.1/warehouse"))
        assert (await client.post("/v1/connections", json=other)).status_code == 201


async def test_a_customer_changes_only_what_it_may_of_the_operators_connection(world: World) -> None:
    inner = {"base_url": "https://inner.corp"}
    async with served(world, Role.ADMIN) as client:
        assert (await client.post("/v1/connections", json=document(settings=inner))).status_code == 201
    async with served(world, Role.ADMIN, customer="acme") as client:
        for settings_, status, kept in (
            (None, 200, "trusted"),
            (inner, 200, "trusted"),  # the same again says nothing new
            ({**inner, "path": "/admin"}, 422, "trusted"),
            ({"base_url": "https://api.example"}, 200, "bound"),
        ):
            change: dict[str, Any] = {"credentials": {"type": "api_key", "api_key": "n" * 32}}
            if settings_ is not None:
                change["settings"] = settings_
            answer = await client.patch("/v1/connections/acme-1", json=change)
            assert answer.status_code == status, answer.text
            assert (await origins(world))[0] == kept
        answer = await client.patch(
            "/v1/connections/acme-1", json={"credentials": oauth(token_url="https://inner.corp/t")}
        )
        assert answer.status_code == 422
    assert (await origins(world))[1] == ["trusted", "bound"], "what is given once more is the same"
    await world.execute("update api_token set name = token_id")
    async with served(world, Role.ADMIN) as client:
        answer = await client.patch("/v1/connections/acme-1", json={"settings": inner})
        assert answer.status_code == 200 and (await origins(world))[0] == "trusted"


async def invited(world: World) -> str:
    found = await world.rows("select connection_id from connection")
    async with served(world, Role.OPERATOR) as client:
        answer = await client.post(f"/v1/connections/{found[0]['connection_id']}/reauthorization")
    await world.execute("update api_token set name = token_id")
    return str(answer.json()["url"]).removeprefix("http://gateway.test")


async def test_a_link_gives_no_private_dsn(world: World) -> None:
    async with served(world, Role.ADMIN) as client:
        made = document(**dsn("postgresql://u:s3cret@inner.corp/d"))
        assert (await client.post("/v1/connections", json=made)).status_code == 201
    await world.execute("update connection set state = 'reauthorization_required'")
    path = await invited(world)
    async with served(world) as customer:
        page = await customer.post(path, data={"dsn": "postgresql://u:s3cret@inner.corp/other"})
        assert page.status_code == 409 and "egress.allow" in re.sub(r"\s+", " ", page.text)
        assert "s3cret" not in page.text
        page = await customer.post(path, data={"dsn": "postgresql://u:s3cret@api.example/d"})
        assert page.status_code == 303
    assert await origins(world) == ("trusted", ["trusted", "bound"])


async def test_a_new_key_by_a_link_leaves_the_operators_address_trusted(world: World) -> None:
    async with canary() as bird:
        async with served(world, Role.ADMIN) as client:
            given = document(settings={"base_url": f"http://127.0.0.1:{bird.port}"})
            assert (await client.post("/v1/connections", json=given)).status_code == 201
        await world.execute("update connection set state = 'reauthorization_required'")
        path = await invited(world)
        async with served(world) as customer:
            assert (await customer.post(path, data={"api_key": "n" * 32})).status_code == 303
        async with world.living():
            await world.reaches("active")
        assert any(b"n" * 32 in said for said in bird.said)
    assert await origins(world) == ("trusted", ["bound"])


async def test_what_became_bound_is_judged_at_each_call(world: World) -> None:
    """A name that was unknown, or public, when it was given."""
    async with canary() as bird:
        async with served(world, Role.ADMIN) as client:
            given = document(settings={"base_url": f"http://127.0.0.1:{bird.port}"})
            assert (await client.post("/v1/connections", json=given)).status_code == 201
        await world.execute("update connection set origin = 'bound'")
        async with world.living():
            await world.reaches("pending")
            reason = await world.rows("select reason from connection")
            assert "egress.allow" in reason[0]["reason"]
        assert bird.came == []


@pytest.mark.parametrize("customer", [None, "acme"])
async def test_no_token_names_a_file_of_the_machine(world: World, customer: str | None) -> None:
    """The text of the authority is what the API takes."""
    base = {"base_url": "https://api.example", "ca_file": "/etc/shadow"}
    basic = {"type": "basic", "username": "u", "password": "p"}
    given = document(system="sap_s4hana", settings=base, credentials=basic)
    async with served(world, Role.ADMIN, customer=customer) as client:
        answer = await client.post("/v1/connections", json=given)
        assert answer.status_code == 422 and "ca_pem" in answer.text
        pem = make_authority("Acme CA").pem
        given["settings"] = {"base_url": "https://api.example", "ca_pem": pem}
        assert (await client.post("/v1/connections", json=given)).status_code == 201
        answer = await client.patch("/v1/connections/acme-1", json={"settings": base})
        assert answer.status_code == 422 and "ca_pem" in answer.text


def test_every_setting_that_names_a_file_is_known() -> None:
    """A new one is refused by its type; one that is a text with a file's name would not be."""
    from gateway.connections.given import file_settings

    named = {
        f"{system}.{name}"
        for system, known in SYSTEMS.items()
        for name in known.settings_model.model_fields
        if re.search(r"(^|_)(file|path)$", name)
    }
    files = {
        f"{system}.{name}"
        for system, known in SYSTEMS.items()
        for name in file_settings(known.settings_model)
    }
    assert files == {"postgres.ca_file", "sap_ecc.ca_file", "sap_s4hana.ca_file"}
    assert named - files == {"http_json.path", "http_json.probe_path"}  # parts of an address


async def test_the_audit_tells_who_gave_what_was_there_before(empty_dsn: str) -> None:
    database = await Database.open(empty_dsn, size=3)
    async with database.transaction() as connection:
        await connection.execute("create table migration (name text primary key, applied_at timestamptz)")
        for name, text in migrations():
            if name.startswith("0017"):
                await connection.execute(_HISTORY)
            await connection.execute(text)
    async with database.connection() as connection:
        kept = await connection.fetch("select connection_id, origin from connection order by 1")
        given = await connection.fetch("select connection_id, origin from credential order by 1")
    await database.close()
    assert [row["origin"] for row in kept] == ["trusted", "bound", "trusted", "trusted"]
    assert [row["origin"] for row in given] == ["trusted", "bound", "bound", "trusted"]


_HISTORY = """
insert into customer values ('acme');
insert into api_token (token_id, hash, name, role, customer_id) values ('1', 'x', 'theirs', 'admin', 'acme'), ('2', 'y', 'ours', 'admin', null);
insert into connection (connection_id, customer_id, system, hosting, tier, delivery, settings, sync, meters, managed_by, price, host, declared_digest)
select name, 'acme', 'http_json', 'cloud', 1, '', '{}', '{}', '[]', 'api', 1, '', '' from unnest(array['a-ours', 'b-theirs', 'c-link', 'd-login']) as name;
insert into credential (connection_id, generation, type, sealed)
select name, 1, case name when 'd-login' then 'oauth2_authorization_code' else 'api_key' end, ''
from unnest(array['a-ours', 'b-theirs', 'c-link', 'd-login']) as name;
insert into connection_audit (connection_id, to_state, trigger, actor) values
('a-ours', 'verifying', 'credentials_given', 'token:ours'), ('b-theirs', 'verifying', 'credentials_given', 'token:theirs'),
('c-link', 'verifying', 'credentials_given', 'token:ours'), ('c-link', 'verifying', 'credentials_given', 'link'),
('d-login', 'verifying', 'credentials_given', 'link')
"""


async def test_a_customer_who_moves_the_address_gives_the_credential_again(world: World) -> None:
    """What the operator stored is not sent to a host that the operator never meant."""
    async with served(world, Role.ADMIN) as client:
        given = document(settings={"base_url": "https://api.example"})
        assert (await client.post("/v1/connections", json=given)).status_code == 201
    await world.execute("update api_token set name = token_id")
    moved = {"base_url": "https://elsewhere.example"}
    async with served(world, Role.ADMIN, customer="acme") as client:
        answer = await client.patch("/v1/connections/acme-1", json={"settings": moved})
        assert answer.status_code == 422 and "another host" in answer.text
        same = {"base_url": "https://api.example/v2"}
        assert (await client.patch("/v1/connections/acme-1", json={"settings": same})).status_code == 200
        key = {"type": "api_key", "api_key": "n" * 32}
        answer = await client.patch("/v1/connections/acme-1", json={"settings": moved, "credentials": key})
        assert answer.status_code == 200
    await world.execute("update api_token set name = token_id")
    async with served(world, Role.ADMIN) as client:
        answer = await client.patch("/v1/connections/acme-1", json={"settings": given["settings"]})
        assert answer.status_code == 200
