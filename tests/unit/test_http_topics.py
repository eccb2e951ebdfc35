"""Messages as they arrive, on fakes: whose they are, what is made of them, how long and how many at once."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

import httpx
import pytest

from benchmarks.servers import wait_until
from gateway.events.listening import SubscriptionRefused, TopicMessage
from gateway.http import live_messages
from gateway.http.live_messages import LiveMessages
from gateway.model.access import Role
from gateway.model.errors import BrokerRefused, RequestRefused
from gateway.settings import BrokerSettings, TelemetrySettings
from tests.fixtures.http_fakes import LIVE_SETTINGS, world
from tests.unit.test_http_pages import browser


@dataclass
class Ear:
    """A broker: `say` is heard by whoever listens."""

    listening: list[Sequence[str]] = field(default_factory=list)
    said: asyncio.Queue[TopicMessage | None] = field(default_factory=asyncio.Queue)
    refused: type[BrokerRefused] | None = None

    async def __call__(
        self, settings: BrokerSettings, filters: Sequence[str], *, each_second: int
    ) -> AsyncGenerator[TopicMessage | None, None]:
        if self.refused is not None:
            raise self.refused("mqtt://secret-host: no")
        self.listening.append(filters)
        try:
            while True:
                yield await self.said.get()
        finally:
            self.listening.remove(filters)

    def say(self, topic: str, payload: bytes = b'{"metrics": {"t": 1}}', size: int | None = None) -> None:
        self.said.put_nowait(
            TopicMessage(topic=topic, payload=payload, size_bytes=size or len(payload), is_retained=False)
        )


async def shown(client: httpx.AsyncClient, wanted: str, *, count: int) -> str:
    """The page when it has so many messages."""
    text = ""

    async def there() -> bool:
        nonlocal text
        text = (await client.get("/topics", params={"filter": wanted})).text
        return text.count("<details id=") == count

    await wait_until(there, what=f"{count} messages of {wanted}", seconds=15)
    return text


async def test_messages_are_shown_with_what_is_made_of_them_and_nothing_is_a_tag() -> None:
    async with browser(world(), Role.VIEWER) as (client, _):
        text = await shown(client, "#", count=4)
    assert "t = 4.5, state = &lt;b&gt;on&lt;/b&gt;" in text and "<b>" not in text
    assert '<a href="/devices/acme/acme-pump-1">' in text and "globex-pump-1" in text
    assert ">invalid json</span>" in text and "What to do:" in text
    assert ">no source</span>" in text and "000000  00 ff" in text
    assert "fieldgate/v1/gateway/status" not in text


@pytest.mark.parametrize(
    "wanted", ["#", "+/devices/#", "acme/devices/+/telemetry", "somewhere/#", "fieldgate/#"]
)
async def test_a_customers_people_see_their_own_alone(wanted: str) -> None:
    ear = Ear()
    live = LiveMessages(LIVE_SETTINGS, ear)
    watch = live.watch("globex", wanted)
    if "acme" in wanted or "somewhere" in wanted or "fieldgate" in wanted:
        await asyncio.sleep(0)
        await wait_until(lambda: _is(watch.detail != ""), what="said", seconds=5)
        assert not ear.listening and "No source takes messages of yours" in watch.detail
    else:
        await wait_until(lambda: _is(bool(ear.listening)), what="listening", seconds=5)
        assert all(one.startswith("globex/") for one in ear.listening[0])
        for topic in ("acme/devices/p/telemetry", "somewhere/else", "globex/devices/p/telemetry", "globex/x"):
            ear.say(topic)  # a broker that sends more than was asked for
        await wait_until(lambda: _is(ear.said.empty() and watch.count > 0), what="heard", seconds=5)
        assert [one.heard.topic for one in watch.messages] == ["globex/devices/p/telemetry"]
    await live.close()
    async with browser(world(), Role.ADMIN, "globex") as (client, _):
        page = (await client.get("/topics", params={"filter": wanted})).text
        assert "acme" not in html.unescape(re.sub(r'value="[^"]*"', "", page)).replace(wanted, "")


async def _is(value: bool) -> bool:
    return value


async def test_of_payloads_that_name_their_customer_a_customers_people_see_none() -> None:
    telemetry = TelemetrySettings.model_validate(
        {"sources": [{"topic": "all/{device}", "customer": {"path": "who"}}, {"topic": "one/{device}", "customer": "globex"}]}
    )  # fmt: skip
    ear = Ear()
    live = LiveMessages(LIVE_SETTINGS.model_copy(update={"telemetry": telemetry}), ear)
    assert live.filters("globex") == ["one/+"] and live.filters("acme") == [] and len(live.filters(None)) == 2
    watch = live.watch("globex", "#")
    ear.say("all/pump", b'{"who": "globex", "metrics": {"t": 1}}')
    ear.say("one/pump")
    await wait_until(lambda: _is(ear.said.empty() and watch.count > 0), what="heard", seconds=5)
    assert [one.heard.topic for one in watch.messages] == ["one/pump"] and ear.listening == [["one/+"]]
    await live.close()


@pytest.mark.parametrize("wanted", ["$SYS/#", "$share/g/a", "a/#/b", "a+/b", "x\0y", "a" * 501])
async def test_what_is_no_filter_is_said(wanted: str) -> None:
    ear = Ear()
    live = LiveMessages(LIVE_SETTINGS, ear)
    with pytest.raises(RequestRefused, match="This is no topic filter"):
        live.watch(None, wanted)
    async with browser(world()) as (client, csrf):
        answer = await client.get("/topics", params={"filter": wanted})
        assert answer.status_code in (409, 422)
        assert (await client.post("/topics", data={"csrf": csrf, "filter": wanted})).status_code == 422
    assert not ear.listening


async def test_nothing_listens_while_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    ear = Ear()
    live = LiveMessages(LIVE_SETTINGS, ear)
    live.watch("acme", "#")
    first = live.watch("acme", "#")
    await wait_until(lambda: _is(len(ear.listening) == 1), what="one session for all who look", seconds=5)
    monkeypatch.setattr(live_messages, "UNSEEN_SECONDS", -1.0)
    await wait_until(lambda: _is(not ear.listening), what="nobody looks", seconds=10)
    assert first.state == "stopped"
    async with browser(world()) as (client, _):
        assert "/topics?filter=%2B%2Fdevices" in (await client.get("/topics")).text
    await live.close()


async def test_it_stops_and_goes_on_by_a_button(monkeypatch: pytest.MonkeyPatch) -> None:
    ear = Ear()
    live = LiveMessages(LIVE_SETTINGS, ear)
    ear.say("acme/devices/p/telemetry")
    watch = live.watch(None, "#")
    await wait_until(lambda: _is(watch.count == 1), what="heard", seconds=5)
    monkeypatch.setattr(live_messages, "WATCHED_SECONDS", -1.0)
    await wait_until(lambda: _is(watch.state == "stopped" and not ear.listening), what="stopped", seconds=10)
    assert live.watch(None, "#") is watch and not ear.listening  # a page that still asks begins nothing
    monkeypatch.setattr(live_messages, "WATCHED_SECONDS", 300.0)
    live.again(None, "#")
    await wait_until(lambda: _is(len(ear.listening) == 1), what="listening again", seconds=5)
    live.know(LIVE_SETTINGS)
    await wait_until(lambda: _is(not ear.listening), what="ended by a reload", seconds=5)
    await live.close()


async def test_each_has_a_few_and_nobody_takes_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveMessages(LIVE_SETTINGS, Ear())
    for wanted in ("a/#", "b/#"):
        live.watch("acme", wanted)
    with pytest.raises(RequestRefused, match="2 topics are looked at already"):
        live.watch("acme", "c/#")
    live.watch("globex", "a/#")
    monkeypatch.setattr(live_messages, "OPEN_SECONDS", -1.0)
    first = live.watch("acme", "a/#")
    second = live.watch("acme", "b/#")
    live.watch("acme", "c/#")  # in place of the one that was not asked for the longest
    assert (first.state, second.state) == ("stopped", "listening")
    for number in range(4):
        live.watch(None, f"{number}/#")
    live.watch("other", "x")
    with pytest.raises(RequestRefused, match="Too many topics"):
        live.watch("another", "x")
    await live.close()


@pytest.mark.parametrize(
    ("refused", "told"),
    [(BrokerRefused, "The broker does not answer"), (SubscriptionRefused, "The broker does not let")],
)
async def test_a_broker_that_is_away_or_grants_nothing_is_said_without_its_address(
    refused: type[BrokerRefused], told: str
) -> None:
    made, ear = world(), Ear(refused=refused)
    assert made.mounted.services is not None
    live = made.mounted.services.live_messages
    live._hear = ear
    async with browser(made) as (client, csrf):
        page = ""

        async def said() -> bool:
            nonlocal page
            page = (await client.get("/topics", params={"filter": "#"})).text
            return told in page

        await wait_until(said, what="the broker is away", seconds=5)
        assert "secret-host" not in page
        ear.refused = None
        answer = await client.post("/topics", data={"csrf": csrf, "filter": "#"})
        assert answer.headers["location"] == "/topics?filter=%23"
        await wait_until(lambda: _is(bool(ear.listening)), what="listening", seconds=5)
    await live.close()


async def test_of_a_customer_that_was_taken_out_nothing_is_said_to_be_taken() -> None:
    """The daemon refuses what its devices go on sending."""
    ear = Ear()
    live = LiveMessages(LIVE_SETTINGS, ear)
    live.know(LIVE_SETTINGS.model_copy(update={"customers": ("acme",)}))
    watch = live.watch("globex", "#")
    ear.say("globex/devices/p/telemetry")
    await wait_until(lambda: _is(watch.count == 1), what="heard", seconds=5)
    found = watch.messages[0].explanation
    assert found is not None and found.dead_letter == "unknown_customer"
    await live.close()


async def test_what_is_too_much_is_bounded() -> None:
    ear = Ear()
    live = LiveMessages(LIVE_SETTINGS, ear)
    watch = live.watch(None, "#")
    for number in range(200):
        ear.say(f"acme/devices/p{number}/telemetry")
    ear.say("acme/devices/large/telemetry", b"{", size=1 << 20)
    ear.said.put_nowait(None)
    await wait_until(lambda: _is(watch.is_paced), what="more than is shown", seconds=5)
    assert (watch.count, len(watch.messages)) == (201, live_messages.SHOWN)
    assert watch.messages[0].explanation is None and watch.messages[1].explanation is not None
    await live.close()
