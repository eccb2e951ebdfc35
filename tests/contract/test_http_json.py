"""The JSON connector: signatures, tokens, templates on the wire, one by one, and only the promises that the
settings make.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from connectors.http_json.connector import MANIFEST, HttpJsonConnector
from gateway.model.connector import ConnectorSettings
from gateway.model.errors import AuthRefused, BadConfiguration, OutcomeUnknown, RateLimited
from gateway.model.outcome import Accepted, Duplicate, Rejected, Retry, Unknown
from gateway.model.reading import make_batch
from tests.contract.faults import FaultServer, answer
from tests.contract.harness import CONNECTION, Calls, reading, recent
from tests.contract.http_json_harness import READ_BACK, SECRET, HttpJsonHarness, HttpJsonOpaqueHarness, Tokens
from tests.contract.http_json_receiver import Receiver
from tests.contract.sap_servers import serving
from tests.fixtures.unreliable import Unreliable

BATCH = make_batch(
    CONNECTION, [reading(f"meter-{number}", recent(), float(number), "CEL") for number in range(6)]
)


@pytest.fixture
async def harness() -> AsyncIterator[HttpJsonHarness]:
    started = HttpJsonHarness()
    async with started.running(""):
        yield started


@pytest.fixture
async def opaque() -> AsyncIterator[HttpJsonOpaqueHarness]:
    started = HttpJsonOpaqueHarness()
    async with started.running(""):
        yield started


def built(url: str, credentials: dict[str, str] | None = None, **settings: object) -> HttpJsonConnector:
    block = {"base_url": url, **settings}
    return HttpJsonConnector(
        ConnectorSettings(
            connection=CONNECTION,
            hosting="cloud",
            settings=block,
            credentials=credentials or {},
            timeout_seconds=5,
        )
    )


async def test_a_wrong_secret_is_refused_and_repeated_nowhere(harness: HttpJsonHarness) -> None:
    connector = harness.connector(credentials={"secret": "quite-another-signing-secret"})
    with pytest.raises(AuthRefused) as caught:
        await connector.push(BATCH)
    assert "quite-another" not in str(caught.value)
    assert await harness.held() == {}
    await connector.close()


@pytest.mark.parametrize("settings", [{"encoding": "base64"}, {"prefix": ""}, {"header": "x-other"}])
async def test_a_signature_is_written_as_the_settings_say(
    harness: HttpJsonHarness, settings: dict[str, str]
) -> None:
    """Our receiver takes one form only, so each other one is refused."""
    connector = harness.connector(signature=settings)
    with pytest.raises(AuthRefused):
        await connector.push(BATCH)
    await connector.close()


async def test_a_refused_token_is_renewed_once_and_the_call_replayed(harness: HttpJsonHarness) -> None:
    harness.receiver.token = "good-token-2"
    tokens = Tokens("stale-token-1", "good-token-2")
    connector = harness.connector(token=tokens)
    assert set(map(type, await connector.push(BATCH))) == {Accepted}
    assert tokens.refused == ["stale-token-1"]
    assert [headers["authorization"] for headers in harness.receiver.headers] == [
        "Bearer stale-token-1",
        "Bearer good-token-2",
    ]
    await connector.close()


async def test_a_token_that_is_refused_twice_is_refused(harness: HttpJsonHarness) -> None:
    harness.receiver.token = "another-token"
    tokens = Tokens("stale-token-1", "stale-token-2", "stale-token-3")
    connector = harness.connector(token=tokens)
    with pytest.raises(AuthRefused) as caught:
        await connector.push(BATCH)
    assert "stale-token" not in str(caught.value)
    assert len(harness.receiver.headers) == 2
    await connector.close()


async def test_the_same_batch_bears_the_same_idempotency_key(opaque: HttpJsonOpaqueHarness) -> None:
    connector = opaque.connector()
    other = make_batch(CONNECTION, [reading("meter-1", recent(1), 1.0)])
    for batch in (BATCH, BATCH, other):
        await connector.push(batch)
    keys = [headers["idempotency-key"] for headers in opaque.receiver.headers]
    assert keys == [BATCH.id, BATCH.id, other.id]
    assert opaque.receiver.bodies[0] == {
        "batch": BATCH.id,
        "items": [
            {
                "key": item.key,
                "meter": item.meter,
                "time": item.window_start.isoformat().replace("+00:00", "Z"),
                "value": item.value,
                "unit": "CEL",
            }
            for item in BATCH.readings
        ],
    }
    await connector.close()


async def test_a_receiver_that_knows_the_key_takes_a_lost_batch_once() -> None:
    receiver = Receiver(replays=True)
    async with serving(receiver) as url, Unreliable(url) as proxy:
        connector = built(proxy.url)
        proxy.faults.append("cut_after")
        with pytest.raises(OutcomeUnknown):
            await connector.push(BATCH)
        assert set(map(type, await connector.push(BATCH))) == {Accepted}
        await connector.close()
    assert [len(items) for items in receiver.readings.values()] == [1] * 6


async def test_one_by_one_each_has_its_own_fate(opaque: HttpJsonOpaqueHarness) -> None:
    connector = opaque.connector(send="each", body="{readings}")
    batch = make_batch(CONNECTION, [*BATCH.readings, opaque.refused(recent())])
    outcomes = await connector.push(batch)
    assert [type(outcome) for outcome in outcomes] == [Accepted] * 6 + [Rejected]
    assert (
        isinstance(outcomes[-1], Rejected)
        and outcomes[-1].message == "the receiver answered 422: no such meter: refused"
    )
    assert len({headers["idempotency-key"] for headers in opaque.receiver.headers}) == 7
    assert connector.capabilities.push == "single"
    await connector.close()


async def test_one_by_one_a_failure_hides_nothing_that_was_taken(opaque: HttpJsonOpaqueHarness) -> None:
    async with Unreliable(opaque.url) as proxy:
        connector = opaque.connector(send="each", url=proxy.url)
        await connector.push(make_batch(CONNECTION, BATCH.readings[:1]))
        for fault, kind in (("cut_after", Unknown), ("503", Retry)):
            opaque.receiver.readings.clear()
            pushing = make_batch(CONNECTION, BATCH.readings[:4])
            proxy.skip = 2
            proxy.faults.append(fault)  # type: ignore[arg-type]
            assert [type(outcome) for outcome in await connector.push(pushing)] == [
                Accepted,
                Accepted,
                kind,
                Retry,
            ]
        proxy.faults.append("503")
        with pytest.raises(RateLimited):
            await connector.push(BATCH)
        await connector.close()


@pytest.mark.parametrize(
    ("settings", "push", "dedup", "readback", "delivery"),
    [
        ({}, "bulk_opaque", "none", "none", "at_least_once"),
        ({"send": "each"}, "single", "none", "none", "at_least_once"),
        ({"results": {}}, "bulk_partial", "none", "none", "at_least_once"),
        ({"read_back": READ_BACK}, "bulk_opaque", "client_ref", "full", "exactly_once"),
        ({"deduplicates": True}, "bulk_opaque", "upsert", "none", "exactly_once"),
    ],
)
async def test_nothing_is_promised_that_the_settings_do_not_say(
    settings: dict[str, Any], push: str, dedup: str, readback: str, delivery: str
) -> None:
    connector = built("https://receiver.example.com", **settings)
    capabilities = connector.capabilities
    assert (capabilities.push, capabilities.dedup, capabilities.readback, capabilities.delivery) == (
        push,
        dedup,
        readback,
        delivery,
    )
    assert MANIFEST.capabilities.delivery == "at_least_once"
    await connector.close()


@pytest.mark.parametrize(
    ("settings", "credentials", "fault"),
    [
        ({"reading": {"v": "{vlaue}"}}, {}, "unknown placeholder vlaue"),
        ({"body": {"batch": "{batch}"}}, {}, "no {readings}"),
        ({"deduplicates": True, "reading": {"v": "{value}"}}, {}, "without {key}"),
        ({"send": "each", "results": {}}, {}, "status of the answer"),
        ({"headers": {"Authorization": "Bearer x"}}, {}, "cannot be set"),
        ({"headers": {"Host": "elsewhere"}}, {}, "belongs to HTTP"),
        ({"api_key_header": "Host"}, {}, "belongs to HTTP"),
        ({"idempotency_header": "content-length"}, {}, "belongs to HTTP"),
        ({"signature": {"header": "transfer-encoding"}}, {}, "belongs to HTTP"),
        ({"api_key_header": "x-key", "headers": {"X-Key": "y"}}, {}, "two things"),
        ({"headers": {"x-a": "b\r\nx-c: d"}}, {}, "pattern"),
        ({"path": "//elsewhere.example.com/x y"}, {}, "pattern"),
        ({"base_url": "http://receiver.example.com"}, {}, "https"),
        ({}, {"secret": "short"}, "16"),
        ({}, {"api_key": "k", "username": "u", "password": "p"}, "expected secret, or api_key"),
        ({}, {"username": "u"}, "username and password"),
    ],
)
def test_settings_that_cannot_work_are_named(
    settings: dict[str, Any], credentials: dict[str, str], fault: str
) -> None:
    with pytest.raises(BadConfiguration, match=fault.replace("{", r"\{")):
        built("https://receiver.example.com", credentials, **settings)


async def test_an_answer_that_does_not_tell_of_each_is_no_answer() -> None:
    async with FaultServer(
        on_get=answer("200 OK", b"{}"), on_other=answer("200 OK", b'{"results": [{"status": "accepted"}]}')
    ) as server:
        connector = built(server.url, results={})
        with pytest.raises(OutcomeUnknown, match="results"):
            await connector.push(BATCH)
        await connector.close()


async def test_the_words_of_an_answer_are_configuration() -> None:
    body = (
        b'[{"a": {"s": "ok"}}, {"a": {"s": "had"}}, {"a": {"s": "wait"}, "w": "busy"}, {"a": {"s": "?"}, "c":'
        b' 7, "w": "odd"}]'
    )
    results = {
        "items": ".",
        "status": "a.s",
        "accepted": "ok",
        "duplicate": "had",
        "retry": "wait",
        "code": "c",
        "message": "w",
    }
    async with FaultServer(on_get=answer("200 OK", b"{}"), on_other=answer("200 OK", body)) as server:
        connector = built(server.url, results=results)
        outcomes = await connector.push(make_batch(CONNECTION, BATCH.readings[:4]))
        assert outcomes[:2] == [Accepted(), Duplicate()]
        assert isinstance(outcomes[2], Retry) and outcomes[2].message == "busy"
        assert outcomes[3] == Rejected(code="7", message="odd")
        await connector.close()


async def test_a_probe_without_a_path_says_what_it_could_not_see(opaque: HttpJsonOpaqueHarness) -> None:
    calls = Calls()
    connector = opaque.connector(calls=calls)
    assert (await connector.probe()).detail == ""
    opaque.receiver.faults.append(405)
    assert "probe_path" in (await connector.probe()).detail
    named = opaque.connector(calls=calls, probe_path="/health")
    await named.probe()
    opaque.receiver.token = "changed"
    with pytest.raises(AuthRefused):
        await connector.probe()
    with pytest.raises(AuthRefused):
        await named.probe()
    for one in (connector, named):
        await one.close()


async def test_a_password_is_tried_twice_at_most(opaque: HttpJsonOpaqueHarness) -> None:
    connector = opaque.connector(credentials={"username": "u", "password": "wrong-password"})
    for _ in range(5):
        with pytest.raises(AuthRefused):
            await connector.push(BATCH)
    assert len(opaque.receiver.headers) == 2
    await connector.close()


async def test_secret_and_key_may_go_together(harness: HttpJsonHarness) -> None:
    harness.receiver.token = "the-api-key"
    connector = harness.connector(credentials={"secret": SECRET, "api_key": "the-api-key"})
    assert set(map(type, await connector.push(BATCH))) == {Accepted}
    await connector.close()
