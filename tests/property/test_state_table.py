"""The table of states: whatever happens, a connection is in one of them, and only a new credential or a probe opens a closed one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.model.connection import TABLE, State, Trigger, next_state, sources

CALLS = {State.ACTIVE, State.DEGRADED}


@given(triggers=st.lists(st.sampled_from(list(Trigger)), max_size=30))
def test_no_calls_before_a_probe_succeeded_since_the_last_refusal(triggers: list[Trigger]) -> None:
    state, proven = State.PENDING, False
    for trigger in triggers:
        following = next_state(state, trigger)
        if following is None:
            continue
        assert trigger in Trigger and state in sources(trigger)
        if trigger is Trigger.PROBE_SUCCEEDED:
            proven = True
        elif following not in CALLS:
            proven = False
        state = following
        assert (state in CALLS) <= proven


@given(state=st.sampled_from(list(State)), trigger=st.sampled_from(list(Trigger)))
def test_sources_are_where_the_trigger_means_something(state: State, trigger: Trigger) -> None:
    assert (state in sources(trigger)) is (next_state(state, trigger) is not None)
    assert next_state(state, trigger) != state


@given(state=st.sampled_from(sorted({state for state, _ in TABLE} | set(TABLE.values()))))
def test_every_state_that_is_used_can_become_active_again(state: State) -> None:
    reached, frontier = {state}, [state]
    while frontier:
        for (origin, _), target in TABLE.items():
            if origin is frontier[0] and target not in reached:
                reached.add(target)
                frontier.append(target)
        frontier.pop(0)
    assert State.ACTIVE in reached
