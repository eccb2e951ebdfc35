"""Filters that overlap: however a broker sends copies, a message is taken once, and never not at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.model.subscriptions import copies_of, matches, may_overlap

LEVELS = st.sampled_from(["a", "b", "$x", ""])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join)
FILTERS = st.lists(st.sampled_from(["a", "b", "+", "$x"]), min_size=1, max_size=4).flatmap(
    lambda levels: st.sampled_from(["/".join(levels), "/".join([*levels, "#"]), "/".join(levels)])
)


@given(st.lists(FILTERS, min_size=1, max_size=5, unique=True), TOPICS, st.booleans())
def test_a_message_is_taken_once(filters: list[str], topic: str, merged: bool) -> None:
    """`merged`: the broker sends one copy with every identifier; else one for each filter."""
    matching = [pattern for pattern in filters if matches(topic, pattern)]
    copies = copies_of(filters)
    if copies is None:
        assert len(matching) <= 1
        return
    if not matching:
        return
    ids = [copies.ids[pattern] for pattern in matching]
    sent = [ids] if merged else [[one] for one in ids]
    assert sum(not copies.is_surplus(topic, given) for given in sent) == 1


@given(st.lists(FILTERS, min_size=2, max_size=5, unique=True), TOPICS, st.data())
def test_nothing_is_lost_while_filters_are_subscribed_or_changed(
    filters: list[str], topic: str, data: st.DataObject
) -> None:
    """A message that matched while only the first of the filters were there, or under another list."""
    copies = copies_of(filters)
    if copies is None:
        return
    subscribed = filters[: data.draw(st.integers(1, len(filters)))]
    ids = [copies.ids[pattern] for pattern in subscribed if matches(topic, pattern)]
    if ids:
        assert any(not copies.is_surplus(topic, [one]) for one in ids)
    others = copies_of([*filters, "other/#", "other/x"])
    assert others is not None
    for pattern in filters:
        if matches(topic, pattern):
            assert not copies.is_surplus(topic, [others.ids[pattern]])
    assert not copies.is_surplus(topic, [])


@given(
    st.lists(FILTERS, min_size=1, max_size=4, unique=True),
    st.lists(FILTERS, min_size=1, max_size=4, unique=True),
    TOPICS,
    st.booleans(),
    st.data(),
)
def test_nothing_is_lost_while_one_list_takes_the_place_of_another(
    before: list[str], after: list[str], topic: str, merged: bool, data: st.DataObject
) -> None:
    """At any moment of the change, and whichever of the two lists is in force when the message is read: a
    list may come back while it is queued.
    """
    old, new = copies_of(before), copies_of(after)
    held: dict[str, int | None] = {one: old.ids[one] if old else None for one in before}
    # as `Session.change`, then `Session.give_up`
    steps: list[tuple[str, int | None, bool]] = [
        (one, new.ids[one] if new else None, True) for one in after if old or new or one not in before
    ]
    steps += [(one, None, False) for one in reversed(before) if one not in after]
    for one, number, is_subscribed in steps[: data.draw(st.integers(0, len(steps)))]:
        if is_subscribed:
            held[one] = number
        else:
            del held[one]
    ids = [number for pattern, number in held.items() if matches(topic, pattern)]
    if not ids:
        assert not any(matches(topic, one) for one in before if one in after)
        return
    known = [one for one in ids if one is not None]
    sent = [known] if merged else [[] if one is None else [one] for one in ids]
    for reader in (old, new):
        assert reader is None or any(not reader.is_surplus(topic, given) for given in sent)


@given(FILTERS, FILTERS, TOPICS)
def test_filters_that_both_match_a_topic_overlap(first: str, second: str, topic: str) -> None:
    if matches(topic, first) and matches(topic, second):
        assert may_overlap(first, second) and may_overlap(second, first)
