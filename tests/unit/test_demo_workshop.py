"""The demonstration's work orders and the people who open and close them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from gateway.demo.work_orders import STATUSES, DemoRefusal, Workshop

AT = datetime(2026, 11, 2, 10, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
def shop() -> Workshop:
    made = Workshop(Random(1))
    made.add_asset("pump-1", AT)
    return made


def test_people_open_take_up_and_close_work_orders(shop: Workshop) -> None:
    seen: dict[int, list[str]] = {}
    for second in range(600):
        shop.act(AT + second * SECOND, busy_seconds=4)
        for order in shop.orders.values():
            words = seen.setdefault(order.id, [])
            if not words or words[-1] != order.status:
                words.append(order.status)
    done = [words for words in seen.values() if words[-1] == "DONE"]
    assert len(done) > 20
    assert all(words == ["OPEN", "IN_PROGRESS", "DONE"] for words in done)
    assert shop.counts().get("OPEN", 0) <= 13, "what is open does not grow for ever"


def test_what_was_raised_is_taken_up_too(shop: Workshop) -> None:
    number = shop.create({"title": "Hot", "description": "Fieldgate reference: X", "priority": "HIGH"}, AT)
    for second in range(120):
        shop.act(AT + second * SECOND, busy_seconds=4)
    order = shop.orders[number]
    assert order.status == "DONE" and order.completed_at is not None and order.updated_at > AT


def test_lists_sort_filter_and_page_by_the_last_record(shop: Workshop) -> None:
    for number in range(5):
        shop.create({"title": f"t{number}"}, AT + number // 2 * SECOND)
    first = shop.list_orders([("sort", "-updatedAt"), ("limit", "2")])
    walked = [order["title"] for order in first["workOrders"]]  # type: ignore[attr-defined]
    cursor = first["nextCursor"]
    shop.change(next(iter(shop.orders)), {"status": "DONE"}, AT + 60 * SECOND)
    while cursor is not None:
        page = shop.list_orders([("sort", "-updatedAt"), ("limit", "2"), ("cursor", str(cursor))])
        walked += [order["title"] for order in page["workOrders"]]  # type: ignore[attr-defined]
        cursor = page["nextCursor"]
    assert walked == ["t4", "t3", "t2", "t1"], "t0 moved to the front, which was read already"
    done = shop.list_orders([("statuses", "DONE"), ("statuses", "CANCELED")])["workOrders"]
    assert [order["title"] for order in done] == ["t0"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "query",
    [
        [("limit", "0")],
        [("limit", "201")],
        [("limit", "x")],
        [("sort", "name")],
        [("statuses", "OPENED")],
        [("cursor", "x")],
        [("cursor", "|")],
    ],
)
def test_a_question_that_makes_no_sense_is_a_fault(shop: Workshop, query: list[tuple[str, str]]) -> None:
    with pytest.raises(DemoRefusal):
        shop.list_orders(query)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"title": ""},
        {"title": 1},
        {"title": "t", "priority": "URGENT"},
        {"title": "t", "type": "X"},
        {"title": "t", "assetId": 9},
    ],
)
def test_a_work_order_that_makes_no_sense_is_a_fault(shop: Workshop, body: object) -> None:
    with pytest.raises(DemoRefusal):
        shop.create(body, AT)
    assert shop.orders == {}


def test_comments_do_not_change_the_time_of_the_last_change(shop: Workshop) -> None:
    number = shop.create({"title": "t"}, AT)
    assert shop.comment(number, "hello", AT + SECOND) and shop.orders[number].updated_at == AT
    assert shop.comment(1, "to nobody", AT) is None and shop.change(1, {}, AT) is None
    with pytest.raises(DemoRefusal):
        shop.change(number, {"status": "GONE"}, AT)
    assert set(shop.counts()) <= set(STATUSES)
