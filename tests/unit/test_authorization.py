"""How a call carries its credential, and what a refusal leads to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from connectors.kit.authorization import Basic, Bearer, Fixed, Unattended, authorization_for
from connectors.kit.http import HttpClient
from gateway.model.connector import ConnectorSettings
from gateway.model.credential import Logon
from gateway.model.errors import AuthRefused, ConnectorError, PermissionDenied, RateLimited, Unavailable
from tests.contract.faults import FaultServer, Reply, answer

OK, REFUSED, FORBIDDEN = answer("200 OK", b"{}"), answer("401 Unauthorized"), answer("403 Forbidden")
LOGIN = answer("200 OK", b"<title>Log in</title>", content_type="text/html")


class Server:
    """Answers in order, then the last for ever; keeps the credentials it was shown."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)

    async def reply(self, writer: object) -> None:
        step = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        await step(writer)  # type: ignore[arg-type]


def shown(server: FaultServer) -> list[str]:
    heads = [request.lower().split(b"\r\n") for request in server.requests]
    return [
        line.decode().partition(": ")[2]
        for head in heads
        for line in head
        if line.startswith((b"authorization:", b"x-key:"))
    ]


class Tokens:
    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.asked: list[str | None] = []

    async def access_token(self, *, refused: str | None = None) -> str:
        self.asked.append(refused)
        return self.tokens[len(self.asked) - 1]


class Gate:
    def __init__(self) -> None:
        self.told: list[str] = []

    def refused(self) -> None:
        self.told.append("refused")

    def accepted(self) -> None:
        self.told.append("accepted")

    def attempt(self, operation: str = "call", /) -> AbstractAsyncContextManager[Logon]:
        return self._attempt()

    @asynccontextmanager
    async def _attempt(self) -> AsyncIterator[Logon]:
        yield self


@asynccontextmanager
async def client(*replies: Reply) -> AsyncIterator[tuple[HttpClient, FaultServer]]:
    script = Server(*replies)
    async with FaultServer(on_get=script.reply, on_other=script.reply) as server:
        http = HttpClient(server.url, headers={}, secrets=["first-token", "pass word"], timeout_seconds=5)
        yield http, server
        await http.close()


async def test_a_refused_token_is_refreshed_once_and_the_header_is_built_again() -> None:
    async with client(REFUSED, OK) as (http, server):
        tokens = Tokens("first-token", "second-token")
        http.authorize(Bearer(tokens, conceal=http.conceal))
        assert (await http.call("push", "POST", "/x", json=[1])).status == 200
        assert shown(server) == ["bearer first-token", "bearer second-token"]
        assert tokens.asked == [None, "first-token"]


async def test_a_token_that_is_refused_twice_is_a_refusal() -> None:
    async with client(REFUSED) as (http, server):
        http.authorize(Bearer(Tokens("first-token", "second-token"), conceal=http.conceal))
        with pytest.raises(AuthRefused) as caught:
            await http.call("push", "POST", "/x", json=[1])
        assert not caught.value.final, "one probe confirms it"
        assert len(server.requests) == 2


async def test_a_login_page_does_not_send_the_call_again() -> None:
    """The work may have been done; and it was not the token that was refused."""
    async with client(LOGIN) as (http, server):
        tokens = Tokens("first-token")
        http.authorize(Bearer(tokens, conceal=http.conceal))
        with pytest.raises(AuthRefused) as caught:
            await http.call("push", "POST", "/x", json=[1])
        assert caught.value.doubtful
        assert len(server.requests) == 1
        assert tokens.asked == [None]


@pytest.mark.parametrize(
    ("reply", "told", "kind"),
    [
        (OK, ["accepted"], None),
        (REFUSED, ["refused"], AuthRefused),
        (FORBIDDEN, ["accepted"], PermissionDenied),
        (LOGIN, [], AuthRefused),
        (answer("302 Found", headers="Location: /login\r\n"), [], AuthRefused),
        (answer("503 Service Unavailable"), [], Unavailable),
        (answer("429 Too Many Requests"), [], RateLimited),
    ],
)
async def test_what_a_gate_is_told_of_a_logon(
    reply: Reply, told: list[str], kind: type[ConnectorError] | None
) -> None:
    async with client(reply) as (http, server):
        gate = Gate()
        http.authorize(Basic("user", "pass word", gate))
        if kind is None:
            await http.call("probe", "GET", "/")
        else:
            with pytest.raises(kind):
                await http.call("probe", "GET", "/")
        assert gate.told == told
        assert shown(server) == ["basic dxnlcjpwyxnzihdvcmq="]


async def test_a_token_that_came_later_is_concealed_too() -> None:
    echo = answer("500 Internal Server Error", b"you sent second-token", content_type="text/plain")
    async with client(REFUSED, echo) as (http, _):
        http.authorize(Bearer(Tokens("first-token", "second-token"), conceal=http.conceal))
        with pytest.raises(ConnectorError) as caught:
            await http.call("probe", "GET", "/")
        assert "second-token" not in str(caught.value)


@pytest.mark.parametrize(
    ("credentials", "token", "kind"),
    [
        ({}, False, Unattended),
        ({"certificate": "c", "private_key": "k"}, False, Unattended),
        ({"api_key": "k"}, False, Fixed),
        ({"username": "u", "password": "p"}, False, Basic),
        ({"client_id": "c"}, True, Bearer),
    ],
)
def test_each_kind_of_credential_has_its_way(
    credentials: Mapping[str, str], token: bool, kind: type[object]
) -> None:
    built_from = ConnectorSettings(
        connection="acme-1",
        hosting="cloud",
        settings={},
        credentials=credentials,
        timeout_seconds=1,
        token=Tokens("t") if token else None,
    )
    assert (
        type(authorization_for(built_from, conceal=lambda _: None, api_key=lambda key: {"x-key": key}))
        is kind
    )
