"""Which address is next: the table, and that none is starved whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.model.rotation import Rotation
from gateway.settings import BrokerSettings


def test_each_is_tried_before_anybody_waits() -> None:
    rotation = Rotation(["a", "b", "c"])
    assert [(rotation.current, rotation.failed()) for _ in range(4)] == [
        ("a", False),
        ("b", False),
        ("c", True),
        ("a", False),
    ]


def test_after_a_steady_connection_the_round_begins_at_the_first() -> None:
    rotation = Rotation(["a", "b", "c"])
    rotation.failed()
    assert rotation.earlier == ("a",)
    assert not rotation.ended(steady=True)
    assert (rotation.current, rotation.earlier) == ("a", ())


def test_one_that_throws_us_out_is_followed_by_the_next() -> None:
    rotation = Rotation(["a", "b"])
    assert not rotation.ended(steady=False)
    assert rotation.current == "b"


def test_one_address_waits_each_time() -> None:
    rotation = Rotation(["a"])
    assert rotation.failed() and rotation.ended(steady=True) and rotation.ended(steady=False)


@given(
    count=st.integers(1, 5),
    steps=st.lists(st.sampled_from(["failed", "steady", "short", "answers"]), max_size=60),
)
def test_none_is_starved_and_every_round_ends_in_a_wait(count: int, steps: list[str]) -> None:
    """Whatever came before: as many failures as there are addresses try each once, and one of them waits."""
    rotation = Rotation([str(number) for number in range(count)])
    for step in steps:
        match step:
            case "failed":
                rotation.failed()
            case "answers" if rotation.earlier:
                rotation.answers(rotation.earlier[-1])
            case "steady" | "short":
                rotation.ended(steady=step == "steady")
        assert rotation.current not in rotation.earlier
    tried, waits = set(), 0
    for _ in range(count):
        tried.add(rotation.current)
        waits += rotation.failed()
    assert len(tried) == count and waits == 1


@pytest.mark.parametrize(
    ("given_url", "said"),
    [
        ([], "1 to 16 URLs"),
        (["mqtt://a"] * 2, "stands twice"),
        (["mqtt://a", "http://b"], "and not http://b"),
        (["mqtt://a", "mqtt://u:secret@b"], "and not b"),
        (["mqtt://a", 7], "a list of them"),
        ({"a": 1}, "a list of them"),
        ([f"mqtt://h{number}" for number in range(17)], "1 to 16 URLs"),
    ],
)
def test_a_list_that_is_none_is_refused(given_url: object, said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        BrokerSettings.model_validate({"url": given_url})
    assert said in str(refused.value) and "secret" not in str(refused.value)


def test_one_url_and_a_list_of_one_are_the_same() -> None:
    one = BrokerSettings.model_validate({"url": "mqtt://a"})
    several = BrokerSettings.model_validate({"url": ["mqtt://a", "mqtts://[::1]:8883"]})
    assert one.urls == BrokerSettings.model_validate({"url": ["mqtt://a"]}).urls == ("mqtt://a",)
    assert several.urls == ("mqtt://a", "mqtts://[::1]:8883") and several.at("mqtt://a").urls == ("mqtt://a",)
