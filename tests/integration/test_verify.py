"""Settings and credentials are tried before anything is stored: what the system says is said, nothing is
kept, and no user is locked by it.
"""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from benchmarks.servers import free_port, wait_until
from connectors.registry import SYSTEMS
from gateway.connections import verification
from gateway.http.documents import VerificationRequest
from gateway.http.entrance import MAX_FAILURES
from gateway.model.access import Role
from gateway.settings import CreditsSettings, EgressSettings
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from tests.fixtures.connection_rig import CALLER, World, settings
from tests.fixtures.http_rig import served
from tests.fixtures.oauth_server import MACHINE, OAuthServer
from tests.integration.test_access import dump

CANARY = "canary-of-a-password"


class Receiver:
    """A system with one user; it counts the logons that it refuses."""

    def __init__(self) -> None:
        self.port = free_port()
        self.password = "right"
        self.seen: Counter[int] = Counter()
        self.asked = 0
        self.status: int | None = None
        self.waits: asyncio.Event | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        self.asked += 1
        if self.waits is not None:
            await self.waits.wait()
        kind, _, given = dict(scope["headers"]).get(b"authorization", b"").decode().partition(" ")
        word = base64.b64decode(given).decode().partition(":")[2] if kind == "Basic" else given
        good = word == self.password
        status = self.status or (200 if good else 401)
        self.seen[status] += 1
        body = b'{"company": {"name": "Acme Works"}}' if status == 200 else b'{"error": "user locked soon"}'
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    server = uvicorn.Server(uvicorn.Config(made, port=made.port, log_config=None, lifespan="off"))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    running = asyncio.create_task(server.serve())
    await wait_until(lambda: server.started, what="the receiver listens")
    yield made
    server.should_exit = True
    await running


def world_of(database: Database, **egress: Any) -> World:
    return World(database, settings=settings(egress=EgressSettings(**egress)), more_systems=SYSTEMS)


@pytest.fixture
async def world(database: Database) -> World:
    await sync_capacity(database, CreditsSettings())
    return world_of(database)


def body(receiver: Receiver, password: str = "right", **changes: Any) -> dict[str, Any]:
    return {
        "customer": "acme",
        "system": "http_json",
        "settings": {"base_url": receiver.url, "probe_path": "/me", "account": "company.name"},
        "credentials": {"type": "basic", "username": "gateway", "password": password},
        **changes,
    }


Ask = Callable[..., Any]


@asynccontextmanager
async def asking(world: World, customer: str | None = None) -> AsyncIterator[Ask]:
    async with served(world, Role.ADMIN, customer) as client:

        async def ask(document: dict[str, Any]) -> httpx.Response:
            return await client.post("/v1/connections:verify", json=document)

        yield ask


async def test_what_is_good_names_its_account_and_nothing_is_stored_or_charged(
    world: World, receiver: Receiver
) -> None:
    receiver.password = CANARY
    async with asking(world) as ask:
        answer = await ask(body(receiver, CANARY))
    assert (answer.status_code, answer.json()["verdict"], answer.json()["account"]) == (
        200,
        "verified",
        "Acme Works",
    )
    for table in ("connection", "credential", "credit_transfer", "event", "connect_draft"):
        assert (await world.rows(f"select count(*) as n from {table}"))[0]["n"] == 0, table
    assert CANARY not in await dump(world.database) and "gateway" not in str(
        await world.rows("select * from tried_logon")
    )


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(401, "refused"), (403, "denied"), (404, "misconfigured"), (429, "busy"), (503, "unavailable")],
)
async def test_a_refusal_is_told_in_the_systems_own_words(
    world: World, receiver: Receiver, status: int, verdict: str
) -> None:
    receiver.status = status
    async with asking(world) as ask:
        answer = await ask(body(receiver))
    found = answer.json()
    assert (answer.status_code, found["verdict"]) == (200, verdict), found
    assert str(status) in found["detail"] and CANARY not in answer.text


async def elsewhere(world: World, document: dict[str, Any]) -> str:
    """What another replica says."""
    other = world_of(world.database)
    asked = VerificationRequest.model_validate(document).connection()
    return str((await other.engine.verifier.verify(asked, CALLER)).verdict)


async def test_a_third_logon_of_a_user_is_never_tried(world: World, receiver: Receiver) -> None:
    """Also with other passwords, a name in capitals, and at another replica; when it is over, a good one
    forgives.
    """
    async with asking(world) as ask:
        assert (await ask(body(receiver, "wrong 1"))).json()["verdict"] == "refused"
        assert await elsewhere(world, body(receiver, "wrong 2")) == "refused"
        for password in ("wrong 3", "right"):
            closed = (await ask(body(receiver, password))).json()
            assert closed["verdict"] == "unavailable" and "two logons" in closed["detail"]
            assert closed["retry_after"] and receiver.seen == {401: 2}
        credentials = {"type": "basic", "username": "GATEWAY", "password": "x"}
        assert await elsewhere(world, body(receiver, credentials=credentials)) == "unavailable"
        assert receiver.seen == {401: 2}
        await world.execute("update tried_logon set at = now() - interval '1 hour'")
        assert (await ask(body(receiver))).json()["verdict"] == "verified"
        for number in (4, 5):
            assert (await ask(body(receiver, f"wrong {number}"))).json()["verdict"] == "refused"


async def test_of_many_at_once_two_are_sent(world: World, receiver: Receiver) -> None:
    receiver.waits = asyncio.Event()
    tries = [asyncio.create_task(elsewhere(world, body(receiver, f"wrong {number}"))) for number in range(6)]

    async def counted() -> bool:
        return (await world.rows("select taken from tried_logon")) == [{"taken": 2}]

    await wait_until(counted, what="both places are taken")
    receiver.waits.set()
    verdicts = Counter([await each for each in tries])
    assert receiver.seen[401] == 2 and verdicts == {"refused": 2, "unavailable": 4}


async def test_logons_that_say_nothing_keep_no_place(world: World, receiver: Receiver) -> None:
    receiver.status = 503
    async with asking(world) as ask:
        for _ in range(4):
            assert (await ask(body(receiver))).json()["verdict"] == "unavailable"
        receiver.status = None
        assert (await ask(body(receiver))).json()["verdict"] == "verified"


async def test_refused_tries_count_as_failed_logons_of_the_address(world: World, receiver: Receiver) -> None:
    document = body(receiver, credentials={"type": "api_key", "api_key": "wrong"})
    async with asking(world) as ask:
        for _ in range(MAX_FAILURES):
            assert (await ask(document)).json()["verdict"] == "refused"
        answer = await ask(document)
    assert (answer.status_code, answer.json()["code"]) == (429, "auth.too_many_attempts")
    assert receiver.seen[401] == MAX_FAILURES


async def test_where_a_customers_token_may_lead(world: World, receiver: Receiver) -> None:
    async with asking(world, "acme") as ask:
        refused = await ask(body(receiver))
        foreign = await ask(body(receiver, customer="globex"))
    assert (refused.status_code, "settings.base_url" in refused.json()["detail"]) == (422, True)
    assert foreign.status_code == 404 and not receiver.seen
    await world.execute("update api_token set revoked_at = now()")
    allowed = world_of(world.database, allow=(ip_network("127.0.0.0/8"),))
    async with asking(allowed, "acme") as ask:
        assert (await ask(body(receiver))).json()["verdict"] == "verified"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"system": "nonsense"}, "unknown system"),
        ({"settings": {}}, "base_url: is missing"),
        ({"customer": "nobody"}, "not among the customers"),
        ({"settings": {"base_url": "https://x.example", "ca_file": "/etc/passwd"}}, "ca_file"),
        ({"credentials": {"type": "dsn", "dsn": "x"}}, "does not take 'dsn'"),
        ({"credentials": {"type": "basic", "username": "a:b", "password": CANARY}}, "colon"),
    ],
)
async def test_what_cannot_be_sent_is_said_before(
    world: World, receiver: Receiver, changes: dict[str, Any], says: str
) -> None:
    async with asking(world) as ask:
        answer = await ask(body(receiver, **changes))
    assert answer.status_code == 422 and says in answer.json()["detail"], answer.text
    assert CANARY not in answer.text and not receiver.seen


async def test_a_system_that_hangs_is_given_up_and_too_many_are_not_tried_at_once(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(verification, "CALL_SECONDS", 0.2)
    monkeypatch.setattr(verification, "OF_ONE_CUSTOMER", 100)
    receiver.waits = asyncio.Event()
    document = body(receiver, credentials={"type": "api_key", "api_key": "k"})
    async with asking(world) as ask:
        answers = await asyncio.gather(
            *(ask(document) for _ in range(verification.AT_ONCE + verification.WAITING + 5))
        )
    receiver.waits.set()
    counted = Counter(answer.status_code for answer in answers)
    assert counted == {200: verification.AT_ONCE + verification.WAITING, 503: 5}
    assert {answer.json().get("verdict") for answer in answers if answer.status_code == 200} == {
        "unavailable"
    }


async def test_a_customer_whose_system_hangs_keeps_no_turn_of_another(
    world: World, receiver: Receiver
) -> None:
    receiver.waits = asyncio.Event()
    document = body(receiver, credentials={"type": "api_key", "api_key": "right"})
    async with asking(world) as ask, asyncio.TaskGroup() as group:
        hanging = [
            group.create_task(ask(document)) for _ in range(verification.AT_ONCE + verification.WAITING)
        ]
        await wait_until(
            lambda: len([one for one in hanging if one.done()]) == 18, what="the others are refused"
        )
        other = group.create_task(ask({**document, "customer": "globex"}))
        await wait_until(lambda: receiver.asked == 3, what="the other customer's is asked")
        receiver.waits.set()
    assert Counter(one.result().status_code for one in hanging) == {200: 2, 503: 18}
    assert other.result().json()["verdict"] == "verified"


async def test_an_oauth_client_is_tried_once_and_a_refresh_token_never(world: World, tmp_path: Path) -> None:
    async with OAuthServer(tmp_path) as server:
        values = {"type": "oauth2_client_credentials", "token_url": server.endpoints["token_url"], **MACHINE}
        where = {"base_url": server.url, "path": "/api/readings", "probe_path": "/api/readings"}
        async with asking(world) as ask:
            good = await ask(
                {"customer": "acme", "system": "http_json", "settings": where, "credentials": values}
            )
            wrong = await ask(
                {
                    "customer": "acme",
                    "system": "http_json",
                    "settings": where,
                    "credentials": {**values, "client_secret": "other"},
                }
            )
            spent = await server.token_requests()
            login = await ask(
                {
                    "customer": "acme",
                    "system": "http_json",
                    "settings": where,
                    "credentials": {
                        **values,
                        "type": "oauth2_authorization_code",
                        "authorization_url": server.endpoints["authorization_url"],
                        "refresh_token": "r",
                    },
                }
            )
        assert good.json()["verdict"] == "verified", good.text
        assert (wrong.json()["verdict"], "client" in wrong.json()["detail"]) == ("misconfigured", True)
        assert (login.status_code, login.json()["code"]) == (422, "request.unsupported")
        assert await server.token_requests() == spent
