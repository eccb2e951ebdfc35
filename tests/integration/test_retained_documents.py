"""What is said of connections on the broker, say by say: what changed first, everything in rounds, within a
budget, and nothing lost, whatever happens in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import aiomqtt
import orjson
import pytest

from gateway.events import connection_documents
from gateway.events.connection_documents import ConnectionDocuments
from gateway.events.session import StrictClient
from gateway.model.status import ConnectionStatus
from gateway.store import status
from gateway.store.pool import Database

INSERT = """
insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest)
select 'c' || to_char(n, 'FM0000'), 'acme', 'postgres', 'cloud', 1, 'active', '' from generate_series(1, $1::int) n
"""


class Broker(StrictClient):
    """Remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[str, bytes]] = []
        self.refuses_after: int | None = None
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def retain(self, topic: str, payload: bytes) -> None:
        if self.refuses_after is not None and len(self.given) >= self.refuses_after:
            raise aiomqtt.MqttError("gone")
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        self.given.append((topic, payload))

    def names(self) -> list[str]:
        """Connections whose status was said since this was last asked."""
        given, self.given = self.given, []
        return [topic.split("/")[-2] for topic, payload in given if topic.endswith("/status") and payload]


async def execute(database: Database, statement: str, *arguments: object) -> None:
    async with database.connection() as connection:
        await connection.execute(statement, *arguments)


async def made(database: Database, count: int) -> tuple[ConnectionDocuments, Broker]:
    await execute(database, "insert into customer (customer_id) values ('acme')")
    await execute(database, INSERT, count)
    return ConnectionDocuments("root", database), Broker()


async def settled(documents: ConnectionDocuments, broker: Broker) -> None:
    """Until a `say` has nothing to say."""
    while True:
        await documents.say(broker)
        if not broker.names():
            return


async def test_a_broker_that_returns_is_told_everything_within_a_budget(database: Database) -> None:
    count = 450
    documents, broker = await made(database, count)
    bound = connection_documents.CHANGED_AT_ONCE + connection_documents.CONNECTED_AT_ONCE
    await settled(documents, broker)
    for _ in range(2):
        documents.repeat(connected=True)
        told = Counter[str]()
        while len(told) < count:
            await documents.say(broker)
            said = broker.names()
            assert 0 < len(said) <= bound
            told.update(said)
        assert set(told.values()) == {1}


async def test_repetitions_are_said_slowly_and_whole(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_documents, "REPEATED_AT_ONCE", 4)
    documents, broker = await made(database, 10)
    await settled(documents, broker)
    documents.repeat()
    rounds = []
    for _ in range(4):
        await documents.say(broker)
        rounds.append(len(broker.names()))
        documents.repeat()  # one that is under way goes on
    assert rounds == [4, 4, 2, 4]


async def test_an_idle_gateway_reads_no_document(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    documents, broker = await made(database, 120)
    await settled(documents, broker)
    read: list[Sequence[str]] = []
    original = status.read

    async def reading(database: Database, connections: Sequence[str]) -> list[ConnectionStatus]:
        read.append(connections)
        return await original(database, connections)

    monkeypatch.setattr(status, "read", reading)
    for _ in range(3):
        await documents.say(broker)
    assert (read, broker.given) == ([], [])
    await execute(database, "update connection set version = version + 1 where connection_id = 'c0077'")
    await documents.say(broker)
    assert read == [["c0077"]] and broker.names() == ["c0077"]


async def test_what_changed_goes_before_what_is_repeated(database: Database) -> None:
    documents, broker = await made(database, 250)
    await settled(documents, broker)
    documents.repeat(connected=True)
    await documents.say(broker)
    broker.names()
    await execute(database, "update connection set version = version + 1 where connection_id = 'c0240'")
    await documents.say(broker)
    assert broker.names()[0] == "c0240"


async def test_nobody_waits_for_ever_behind_those_that_always_change(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_documents, "CHANGED_AT_ONCE", 2)
    documents, broker = await made(database, 7)
    await settled(documents, broker)
    told = Counter[str]()
    for _ in range(8):
        await execute(database, "update connection set version = version + 1")
        await documents.say(broker)
        told.update(broker.names())
    assert len(told) == 7 and max(told.values()) - min(told.values()) <= 1


async def test_what_changes_while_it_is_said_is_said_again(database: Database) -> None:
    documents, broker = await made(database, 1)
    await settled(documents, broker)

    async def change() -> None:
        await execute(database, "update connection set version = version + 1, reason = 'later'")

    await change()
    broker.meanwhile = change
    await documents.say(broker)
    assert len(broker.names()) == 1
    await documents.say(broker)
    assert [orjson.loads(payload)["version"] for _, payload in broker.given] == [3]


async def test_what_is_changing_just_now_is_not_waited_for(database: Database) -> None:
    documents, broker = await made(database, 2)
    await settled(documents, broker)
    await execute(database, "update connection set version = version + 1")
    async with database.transaction() as connection:
        await connection.execute("update connection set version = version + 1 where connection_id = 'c0001'")
        await documents.say(broker)
        assert broker.names() == ["c0001", "c0002"]
    await documents.say(broker)
    assert broker.names() == ["c0001"]


async def test_what_the_broker_did_not_take_is_said_by_whoever_speaks_next(database: Database) -> None:
    documents, broker = await made(database, 6)
    await settled(documents, broker)
    await execute(database, "update connection set version = version + 1")
    broker.refuses_after = 2
    with pytest.raises(aiomqtt.MqttError):
        await documents.say(broker)
    later, successor = ConnectionDocuments("root", database), Broker()
    await later.say(successor)
    assert len(successor.names()) == 6


@pytest.mark.parametrize(
    ("statement", "topics"),
    [
        ("update connection set version = version + 1 where connection_id = 'c0002'", {"status"}),
        ("delete from connection where connection_id = 'c0002'", {"status"}),
        (
            (
                "insert into issue (issue_id, connection_id, code, severity, title, instructions, action_url)"
                " values ('i', 'c0002', 'blocked', 'error', 't', 'i', 'u')"
            ),
            {"status", "i"},
        ),
        ("update issue set title = 'another' where issue_id = 'held'", {"status", "held"}),
        ("update issue set solved_at = now() where issue_id = 'held'", {"status", "held"}),
        ("delete from issue where issue_id = 'held'", {"status", "held"}),
    ],
)
async def test_every_change_is_found_and_no_other_connection_is_said(
    database: Database, statement: str, topics: set[str]
) -> None:
    documents, broker = await made(database, 3)
    await execute(
        database,
        "insert into issue (issue_id, connection_id, code, severity, title, instructions, action_url) "
        "values ('held', 'c0003', 'blocked', 'error', 't', 'i', 'u')",
    )
    await settled(documents, broker)
    await execute(database, statement)
    await documents.say(broker)
    name = "c0003" if "held" in statement else "c0002"
    assert {topic.split(f"connections/{name}/")[1].rpartition("/")[2] for topic, _ in broker.given} == topics
    gone = statement.startswith("delete") or "solved" in statement
    assert any(not payload for _, payload in broker.given) is gone


# Alerts

ALERTS = """
insert into alert (alert_id, customer_id, connection_id, rule_id, device_id, kind, severity, title, text, value, begun_at, since, opened_at, state)
select 'a' || to_char(n, 'FM0000'), 'acme', 'c0001', 'hot', 'd' || n, 'task', 'low', '', '', '1', now(), now(), now(), 'raised'
from generate_series(1, $1::int) n
"""


def alerts_said(broker: Broker) -> dict[str, bool]:
    """Alerts that were said since this was last asked, and whether there is something of them."""
    given, broker.given = broker.given, []
    return {topic.split("/")[-1]: bool(payload) for topic, payload in given if "/alerts/" in topic}


async def all_alerts(documents: ConnectionDocuments, broker: Broker) -> list[dict[str, bool]]:
    """Say by say, until nothing is said of alerts."""
    found = []
    while True:
        await documents.say(broker)
        if not (said := alerts_said(broker)):
            return found
        found.append(said)


async def test_alerts_of_one_connection_are_said_within_a_budget(database: Database) -> None:
    count = 450
    documents, broker = await made(database, 1)
    await execute(database, ALERTS, count)
    bound = connection_documents.CHANGED_AT_ONCE + connection_documents.ALERTS_CONNECTED_AT_ONCE
    await all_alerts(documents, broker)
    for _ in range(2):
        documents.repeat(connected=True)
        told = Counter[str]()
        for said in await all_alerts(documents, broker):
            assert 0 < len(said) <= bound and all(said.values())
            told.update(said)
        assert len(told) == count and set(told.values()) == {1}


async def test_an_alert_that_changed_is_said_alone_whoever_changed_it(database: Database) -> None:
    """Also where whoever judged it was killed before it could say that the connection changed."""
    documents, broker = await made(database, 1)
    await execute(database, ALERTS, 120)
    await all_alerts(documents, broker)
    await execute(database, "update alert set version = version + 1 where alert_id = 'a0007'")
    assert await all_alerts(documents, broker) == [{"a0007": True}]
    await execute(
        database, "update alert set version = version + 1, state = 'cleared' where alert_id = 'a0007'"
    )
    assert await all_alerts(documents, broker) == [{"a0007": False}]
    assert await all_alerts(documents, broker) == []


async def test_an_alert_that_changes_while_it_is_said_is_said_again(database: Database) -> None:
    documents, broker = await made(database, 1)
    await settled(documents, broker)
    await execute(database, ALERTS, 1)
    broker.meanwhile = lambda: execute(database, "update alert set version = version + 1")
    assert await all_alerts(documents, broker) == [{"a0001": True}, {"a0001": True}]


async def test_what_was_not_told_before_the_broker_went_is_told_after(database: Database) -> None:
    documents, broker = await made(database, 1)
    await settled(documents, broker)
    await execute(database, ALERTS, 3)
    broker.refuses_after = 1
    with pytest.raises(aiomqtt.MqttError):
        await documents.say(broker)
    later, successor = ConnectionDocuments("root", database), Broker()
    assert {name for said in await all_alerts(later, successor) for name in said} == {
        "a0001",
        "a0002",
        "a0003",
    }


async def test_an_alert_that_nobody_knows_any_more_leaves_no_ghost(database: Database) -> None:
    documents, broker = await made(database, 1)
    await execute(database, ALERTS, 2)
    await all_alerts(documents, broker)
    await execute(database, "delete from alert where alert_id = 'a0002'")
    documents.repeat()
    said = [pair for said in await all_alerts(documents, broker) for pair in said.items()]
    assert sorted(said) == [("a0001", True), ("a0002", False)]
