"""`/v1` on fakes: roles, whose it is, problems, paging, entity tags, limits. Every route is found by
introspection, so a new one is tested too.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator, Sequence
from inspect import iscoroutinefunction
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from gateway import clock
from gateway.events.documents import status_document
from gateway.http import cursors
from gateway.http.middleware import MAX_BODY_BYTES
from gateway.http.openapi import complete
from gateway.model.access import Role
from gateway.model.alert_life import AlertState
from gateway.model.connection import State
from gateway.model.errors import RequestRefused, StoreRejected, StoreUnavailable, Unavailable
from gateway.model.exchange import RemoteMeter
from tests.fixtures.http_fakes import NOW, World, alert_of, described, status_of, world

NEEDS = {
    "list_systems": Role.VIEWER,
    "list_connections": Role.VIEWER,
    "create_connection": Role.ADMIN,
    "read_connection": Role.VIEWER,
    "change_connection": Role.ADMIN,
    "disconnect": Role.ADMIN,
    "read_status": Role.VIEWER,
    "synchronise": Role.OPERATOR,
    "pause": Role.OPERATOR,
    "resume": Role.OPERATOR,
    "recheck": Role.OPERATOR,
    "make_reconnect_link": Role.OPERATOR,
    "list_meters": Role.VIEWER,
    "list_readings": Role.VIEWER,
    "list_runs": Role.VIEWER,
    "list_dead_letters": Role.VIEWER,
    "replay_dead_letters": Role.OPERATOR,
    "list_events": Role.VIEWER,
    "read_credits": Role.VIEWER,
    "list_transfers": Role.VIEWER,
    "list_incidents": Role.VIEWER,
    "read_incident": Role.VIEWER,
    "list_alerts": Role.VIEWER,
    "read_alert": Role.VIEWER,
    "list_webhooks": Role.ADMIN,
    "create_webhook": Role.ADMIN,
    "delete_webhook": Role.ADMIN,
    "replay_webhook": Role.ADMIN,
    "rotate_webhook_secret": Role.ADMIN,
    "list_records": Role.VIEWER,
    "show_record": Role.VIEWER,
    "confirm_deletions": Role.OPERATOR,
    "list_devices": Role.VIEWER,
    "read_device": Role.VIEWER,
    "read_series": Role.VIEWER,
    "read_doctor": Role.OPERATOR,
    "verify_connection": Role.ADMIN,
    "create_connect_link": Role.ADMIN,
    "list_connect_links": Role.ADMIN,
    "revoke_connect_link": Role.ADMIN,
    "list_messages": Role.VIEWER,
    "count_messages": Role.VIEWER,
    "read_message": Role.VIEWER,
    "discard_message": Role.OPERATOR,
    "replay_message": Role.OPERATOR,
    "replay_messages": Role.OPERATOR,
    "discard_messages": Role.OPERATOR,
    "list_over_quota": Role.VIEWER,
    "read_quotas": Role.VIEWER,
}
OF_ALL_CUSTOMERS = {"read_doctor"}
"""What a token of one customer is refused."""

BODIES: dict[str, object] = {
    "create_connection": {"id": "{customer}-9", "customer": "{customer}", "system": "maintainx"},
    "change_connection": {"sync": {"interval": "5m"}},
    "synchronise": {"mode": "full"},
    "verify_connection": {"customer": "{customer}", "system": "maintainx"},
    "create_connect_link": {"customer": "{customer}", "systems": ["maintainx"]},
    "replay_dead_letters": {"ids": [1]},
    "replay_messages": {"customer": "{customer}"},
    "discard_messages": {"customer": "{customer}", "expected": 3},
    "create_webhook": {"url": "https://hooks.example.com/", "customer": "{customer}"},
}
OPEN = {"/healthz", "/readyz", "/metrics", "/openapi.json"}


def flat(routes: Sequence[Any]) -> Iterator[APIRoute]:
    """Every route, also of routers that were included."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from flat(inner.routes)
        elif isinstance(route, APIRoute):
            yield route


def v1(app: FastAPI) -> list[tuple[str, str, str]]:
    """Name, method and path template of each operation of `/v1`."""
    return [
        (route.name, method, route.path)
        for route in flat(app.routes)
        if route.path.startswith("/v1")
        for method in sorted(route.methods)
    ]


OPERATIONS = v1(world().app)


async def ask(
    client: httpx.AsyncClient,
    name: str,
    method: str,
    path: str,
    customer: str,
    *,
    connection: str | None = None,
) -> httpx.Response:
    """A request that is right for the operation, about what is `customer`'s."""
    filled = path.replace(":path}", "}").format(
        connection=connection or f"{customer}-1",
        incident=f"inc-{customer}",
        webhook=f"wh-{customer}",
        alert=f"{customer}{1:016x}"[:20],
        stream="work_orders",
        key="1",
        customer=customer,
        device=f"{customer}-pump-1",
        link=f"cl-{customer}",
        message={"acme": 101, "globex": 201}.get(customer, 999),
    )
    parameters = {
        "replay_webhook": {"from": NOW.isoformat()},
        "list_records": {"customer": customer},
        "list_devices": {"customer": customer},
        "list_messages": {"customer": customer},
        "count_messages": {"customer": customer},
        "read_series": {"metric": "t"},
    }
    body = BODIES.get(name)
    if isinstance(body, dict):
        body = {
            key: value.format(customer=customer) if isinstance(value, str) else value
            for key, value in body.items()
        }
    return await client.request(method, filled, json=body, params=parameters.get(name))


def test_every_operation_is_listed_here() -> None:
    """A new route must be given a role here, and is then in every test below."""
    assert {name for name, _, _ in OPERATIONS} == set(NEEDS)
    paths = {route.path for route in flat(world().app.routes) if route.include_in_schema}
    assert {path for path in paths if not path.startswith("/v1/")} <= OPEN


def calls(dependant: Dependant) -> Iterator[Any]:
    for inner in dependant.dependencies:
        yield inner.call
        yield from calls(inner)


def test_no_dependency_runs_in_a_thread() -> None:
    """FastAPI takes what is not `async` to a thread, for each request."""
    called = {call for route in flat(world().app.routes) for call in calls(route.dependant)}
    assert len(called) > 5
    assert not [
        call
        for call in called
        if not iscoroutinefunction(call) and not iscoroutinefunction(type(call).__call__)
    ]


@pytest.mark.parametrize("role", [None, "nonsense", *Role])
@pytest.mark.parametrize(("name", "method", "path"), OPERATIONS, ids=lambda value: str(value))
async def test_roles(name: str, method: str, path: str, role: str | None) -> None:
    made = world()
    async with made.client(role) as client:
        answer = await ask(client, name, method, path, "acme")
    if role is None or role == "nonsense":
        assert (answer.status_code, answer.json()["code"]) == (401, "auth.unauthenticated")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    elif Role(role).covers(NEEDS[name]):
        assert answer.status_code < 300, answer.text
    else:
        assert (answer.status_code, answer.json()["code"]) == (403, "auth.forbidden")
    if answer.status_code >= 400:
        assert (
            not made.service.asked
            and not made.webhooks.asked
            and not made.reader.replayed
            and not made.reauthorizing.invited
            and not made.messages.replayed
            and not made.messages.discarded
        )


async def leaks(made: World, name: str, method: str, path: str) -> str | None:
    """What a token of globex learns of acme by an operation, or does to it; None: nothing."""
    before = dict(made.reader.held)
    async with made.client("globex") as client:
        answer = await ask(client, name, method, path, "acme")
        missing = await ask(client, name, method, path, "nobody", connection="nobody-1")
        own = await ask(client, name, method, path, "globex")
    done = made.service.asked + made.reader.replayed + made.webhooks.asked + made.reauthorizing.invited
    done += [one for one in (*made.messages.replayed, *made.messages.discarded) if "101" in str(one)]
    if made.reader.held.keys() - before.keys() - {"globex-9"} or any("acme" in str(one) for one in done):
        return f"did {done}"
    if "{" in path:
        same = (answer.status_code, unnamed(answer)) == (missing.status_code, unnamed(missing))
        if answer.status_code != 404 or not same:
            return (
                f"{answer.status_code} {answer.text}, of one that does not exist {missing.status_code}"
                f" {missing.text}"
            )
    elif answer.status_code != 403 and "acme" in answer.text.lower():
        return answer.text
    if name in OF_ALL_CUSTOMERS:
        return None if own.status_code == 403 else f"for everybody: {own.text}"
    return None if own.status_code < 300 else f"its own: {own.text}"


def unnamed(answer: httpx.Response) -> dict[str, object]:
    return {key: value for key, value in answer.json().items() if key != "request_id"}


@pytest.mark.parametrize(("name", "method", "path"), OPERATIONS, ids=lambda value: str(value))
async def test_nothing_of_another_customer_exists_for_a_bound_token(
    name: str, method: str, path: str
) -> None:
    assert await leaks(world(), name, method, path) is None


async def test_a_route_without_the_check_is_found_out() -> None:
    made = world(fresh=True)

    @made.app.get("/v1/connections/{connection}/careless")
    async def careless(connection: str) -> dict[str, str]:
        return {"customer": made.reader.held[connection].customer} if connection in made.reader.held else {}

    [added] = [operation for operation in v1(made.app) if operation[0] == "careless"]
    assert added[0] not in NEEDS
    assert await leaks(made, *added) is not None


async def test_filters_of_a_bound_token_find_nothing_of_others() -> None:
    async with world().client("globex") as client:
        assert (await client.get("/v1/connections", params={"customer": "acme"})).json()["items"] == []
        assert [
            item["id"]
            for item in (await client.get("/v1/connections", params={"customer": "globex"})).json()["items"]
        ] == ["globex-1"]
        assert (await client.post("/v1/webhooks", json={"url": "https://hooks.example.com/"})).json()[
            "customer"
        ] == "globex"


async def test_alerts_are_found_by_customer_connection_and_state() -> None:
    made = world()
    made.reader.raised += [alert_of("acme", 9, connection="acme-2", state=AlertState.CLEARED)]
    async with made.client("viewer") as client:

        async def found(**wanted: object) -> list[str]:
            answer = await client.get("/v1/alerts", params=wanted)  # type: ignore[arg-type]
            return [item["connection"] for item in answer.json()["items"]]

        assert await found(customer="acme") == ["acme-1"] * 3 + ["acme-2"]
        assert await found(connection="acme-2") == ["acme-2"]
        assert await found(state=["cleared"]) == ["acme-2"]
        assert await found(state=["raised", "cleared"], customer="globex") == ["globex-1"] * 3
        assert (await client.get("/v1/alerts", params={"state": "silly"})).status_code == 422
    async with made.client("globex") as client:
        assert (await client.get("/v1/alerts", params={"customer": "acme"})).json()["items"] == []
        assert (await client.get("/v1/alerts", params={"connection": "acme-1"})).json()["items"] == []


async def test_the_caller_is_named_with_the_request_id() -> None:
    made = world()
    async with made.client("operator") as client:
        await client.post("/v1/connections/acme-2/pause", headers={"X-Request-ID": "mine-1"})
    [(_, _, caller)] = made.service.asked
    assert (caller.name, caller.request_id) == ("token:o", "mine-1")


async def test_the_status_is_the_document_of_mqtt_with_its_version_as_tag() -> None:
    made = world()
    async with made.client("viewer") as client:
        first = await client.get("/v1/connections/acme-1/status")
        document = status_document(status_of(made.reader.held["acme-1"]), now=clock.now()).payload()
        again = await client.get("/v1/connections/acme-1/status", headers={"If-None-Match": '"2", W/"3"'})
        other = await client.get("/v1/connections/acme-1/status", headers={"If-None-Match": '"2"'})
    updated = re.compile(rb'"updated":"[^"]+"')
    assert updated.sub(b"", first.content) == updated.sub(b"", document)
    assert (first.headers["ETag"], other.status_code) == ('"3"', 200)
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", '"3"')


@pytest.mark.parametrize(
    ("error", "status", "code", "wait"),
    [
        (RequestRefused("connection.paused", "Paused.", connection="acme-2"), 409, "connection.paused", None),
        (
            RequestRefused("connection.disconnected", "Gone.", connection="acme-2"),
            410,
            "connection.disconnected",
            None,
        ),
        (
            RequestRefused("credits.insufficient", "Too few.", connection="acme-2"),
            402,
            "credits.insufficient",
            None,
        ),
        (RequestRefused("something.new", "New.", connection="acme-2"), 409, "something.new", None),
        (
            RequestRefused("upstream.unavailable", "Away.", connection="acme-2", retry_after=2.5),
            503,
            "upstream.unavailable",
            2.5,
        ),
        (
            Unavailable("no connector's error gets here: a service says what it means"),
            500,
            "gateway.internal",
            None,
        ),
        (StoreUnavailable("away"), 503, "gateway.overloaded", 1),
        (StoreRejected("nul"), 422, "request.invalid", None),
        (ZeroDivisionError(), 500, "gateway.internal", None),
    ],
    ids=lambda value: getattr(value, "code", type(value).__name__),
)
async def test_errors_are_problems_with_stable_codes(
    error: Any, status: int, code: str, wait: float | None
) -> None:
    made = world()
    made.service.refusal = error
    async with made.client("admin") as client:
        answer = await client.get("/v1/connections/acme-2/meters")
    body = answer.json()
    assert (answer.status_code, body["code"], body["retry_after"]) == (status, code, wait)
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert answer.headers.get("Retry-After") == (None if wait is None else str(-int(-wait // 1)))
    assert body["connection"] == ("acme-2" if isinstance(error, RequestRefused) else None)
    assert body["retryable"] == (status in (429, 500, 502, 503))


async def test_meters_of_a_request_are_bounded() -> None:
    rule = {"device": "d", "metric": "t", "meter": "m"}
    async with world().client("admin") as client:
        for count, status in ((5_000, 200), (5_001, 422)):
            answer = await client.patch("/v1/connections/acme-2", json={"meters": [rule] * count})
            assert answer.status_code == status, answer.text


async def test_a_list_can_leave_the_rules_out_and_says_how_many_there_are() -> None:
    made = world()
    rules = [{"device": f"d{n}", "metric": "t", "meter": f"m{n}"} for n in range(3)]
    made.reader.put(described("acme-2", "acme", meters=rules, alerts=[{"id": "hot"}]))
    async with made.client("viewer") as client:
        whole = (await client.get("/v1/connections")).json()["items"]
        compact = (await client.get("/v1/connections", params={"rules": "false"})).json()["items"]
        one = (await client.get("/v1/connections/acme-2")).json()
    assert [item["id"] for item in whole] == [item["id"] for item in compact]
    [shown], [short] = [[item for item in items if item["id"] == "acme-2"] for items in (whole, compact)]
    assert shown == one and [rule["meter"] for rule in one["meters"]] == ["m0", "m1", "m2"]
    assert short == {**one, "meters": None, "alerts": None}
    assert (short["meter_rules"], short["alert_rules"]) == (3, 1)


async def test_a_system_is_asked_for_its_meters_once_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked, answers = world(), asyncio.Event(), asyncio.Event()

    async def slow(connection: str) -> list[RemoteMeter]:
        asked.set()
        await answers.wait()
        return []

    monkeypatch.setattr(made.service, "meters", slow)
    async with made.client("admin") as client:
        first = asyncio.create_task(client.get("/v1/connections/acme-2/meters"))
        await asked.wait()
        second = await client.get("/v1/connections/acme-2/meters")
        answers.set()
        ended = await first
        third = await client.get("/v1/connections/acme-2/meters")
    assert (ended.status_code, second.status_code, third.status_code) == (200, 503, 200)
    assert (second.json()["code"], second.json()["retry_after"]) == ("gateway.overloaded", 5.0)


async def test_lists_are_paged_without_gap_or_repetition() -> None:
    async with world().client("viewer") as client:
        for path, key in (
            ("/v1/connections", "id"),
            ("/v1/connections/acme-1/readings", "window_start"),
            ("/v1/connections/acme-1/runs", "id"),
            ("/v1/credits/transfers", "id"),
            ("/v1/devices", "device"),
            ("/v1/alerts", "id"),
            ("/v1/messages", "id"),
            ("/v1/quotas", "quota"),
        ):
            whole = [item[key] for item in (await client.get(path)).json()["items"]]
            seen: list[object] = []
            cursor: str | None = None
            while True:
                page = (
                    await client.get(
                        path, params={"limit": 2, **({} if cursor is None else {"cursor": cursor})}
                    )
                ).json()
                seen += [item[key] for item in page["items"]]
                cursor = page["next"]
                if cursor is None:
                    break
            assert seen == whole and len(whole) >= 3, path


async def test_events_always_have_a_place_to_go_on_from() -> None:
    async with world().client("viewer") as client:
        first = (await client.get("/v1/events", params={"limit": 2})).json()
        second = (await client.get("/v1/events", params={"after": first["next"]})).json()
        third = (await client.get("/v1/events", params={"after": second["next"]})).json()
    assert [[event["id"] for event in page["items"]] for page in (first, second, third)] == [
        ["e1", "e2"],
        ["e3"],
        [],
    ]
    assert third["next"] == second["next"]


async def test_a_page_that_ends_with_the_list_has_no_next() -> None:
    async with world().client("viewer") as client:
        for path in (
            "/v1/connections",
            "/v1/connections/acme-1/readings",
            "/v1/connections/acme-1/runs",
            "/v1/credits/transfers",
            "/v1/incidents",
            "/v1/alerts",
        ):
            whole = len((await client.get(path)).json()["items"])
            assert whole > 0, path
            exactly = (await client.get(path, params={"limit": whole})).json()
            assert (len(exactly["items"]), exactly["next"]) == (whole, None), path
            if whole > 1:
                less = (await client.get(path, params={"limit": whole - 1})).json()
                assert (len(less["items"]), less["next"] is None) == (whole - 1, False), path


@pytest.mark.parametrize(
    "since",
    [
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-12:00",
        "2026-01-01T00:00:00",
        "never",
        "1e300",
        "-1",
        "\0",
    ],
)
async def test_a_time_that_is_none_is_refused(since: str) -> None:
    async with world().client("admin") as client:
        answer = await client.post("/v1/webhooks/w1/replay", params={"from": since})
    assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid")


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "====",
        "",
        cursors.write(1),
        cursors.write("a", "b", "c"),
        cursors.write("no time", 1),
        cursors.write("2026-01-01T00:00:00Z", 2**63),
        cursors.write("0001-01-01T00:00:00+14:00", 1),
        cursors.write("9999-12-31T23:59:59-12:00", 1),
        cursors.write("0001-01-01T00:00:00", 1),
        cursors.write("2026-01-01T00:00:00", 1),
        "é",
        cursors.write(True, True),
    ],
)
async def test_a_cursor_that_is_none_is_refused(cursor: str) -> None:
    async with world().client("viewer") as client:
        answer = await client.get("/v1/connections/acme-1/runs", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid")


async def test_a_body_of_more_than_a_mebibyte_is_refused_before_it_is_read() -> None:
    async with world().client("admin") as client:
        declared = await client.post("/v1/connections", content=b"x" * (MAX_BODY_BYTES + 1))

        async def stream() -> Any:
            for _ in range(20):
                yield b"x" * (MAX_BODY_BYTES // 10)

        streamed = await client.post("/v1/connections", content=stream())
    for answer in (declared, streamed):
        assert (answer.status_code, answer.json()["code"]) == (413, "request.too_large")
        assert answer.json()["request_id"] == answer.headers["X-Request-ID"]


async def test_a_table_of_meters_is_no_file_to_read_for_the_api() -> None:
    made = world()
    meters = [{"table": "/etc/passwd"}]
    async with made.client("admin") as client:
        created = await client.post(
            "/v1/connections", json={"id": "a", "customer": "acme", "system": "maintainx", "meters": meters}
        )
        changed = await client.patch("/v1/connections/acme-1", json={"meters": meters})
    assert [created.status_code, changed.status_code, made.service.asked] == [422, 422, []]


async def test_no_error_repeats_a_secret() -> None:
    async with world().client("admin") as client:
        credentials = {"type": "none of ours", "api_key": "s3cret-canary"}
        answer = await client.post(
            "/v1/connections",
            json={"id": "/", "customer": "acme", "system": "maintainx", "credentials": credentials},
        )
    assert answer.status_code == 422
    assert "canary" not in answer.text


async def test_before_the_database_is_open_everything_is_told_to_wait() -> None:
    made = world()
    made.mounted.services = None
    async with made.client("admin") as client:
        answers = [await client.get(path) for path in ("/v1/systems", "/", "/reauthorize/x")]
        well = await client.get("/status")
    assert [
        (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) for answer in answers
    ] == [(503, "gateway.overloaded", "1")] * 3
    assert well.status_code == 200


async def test_without_authentication_whoever_asks_is_admin() -> None:
    made = world()
    assert made.mounted.services is not None
    object.__setattr__(made.mounted.services, "authentication", False)
    async with made.client() as client:
        assert (await client.post("/v1/connections/acme-2/pause")).status_code == 202
        assert "acme-2" in (await client.get("/")).text


async def test_dead_letters_of_what_is_not_delivered_are_not_replayed() -> None:
    made = world()
    made.reader.held["acme-2"] = made.reader.held["acme-2"].__class__(
        **{**fields_of(made.reader.held["acme-2"]), "state": State.DISCONNECTED}
    )
    async with made.client("operator") as client:
        answer = await client.post("/v1/connections/acme-2/dead-letters/replay", json={})
    assert (answer.status_code, answer.json()["code"], made.reader.replayed) == (
        410,
        "connection.disconnected",
        [],
    )


def fields_of(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


def test_the_document_says_every_error_and_how_to_log_in() -> None:
    document = complete(world().app)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path.startswith("/v1/"):
                assert operation["security"] == [{"token": []}]
                assert {"401", "403", "500", "503"} <= operation["responses"].keys()
                assert ("404" in operation["responses"]) >= ("{" in path)
            for status, response in operation["responses"].items():
                assert "X-Request-ID" in response["headers"]
                if status >= "400" and path.startswith("/v1/"):
                    assert response["content"].keys() == {"application/problem+json"}
    assert "HTTPValidationError" not in str(document)


def test_nothing_of_a_request_runs_in_a_thread() -> None:
    """A function that is not async would: a hop to the pool of threads costs more than the request."""

    def calls(dependant: Any) -> Iterator[Any]:
        yield dependant.call
        for below in dependant.dependencies:
            yield from calls(below)

    for route in flat(world().app.routes):
        for call in calls(route.dependant):
            assert inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(call.__call__), (
                route.path,
                call,
            )
