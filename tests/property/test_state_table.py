"""The table of states: whatever happens, only a probe opens a closed connection, credits balance, and a
person who is needed is told.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from gateway.model.connection import (
    TABLE,
    Credits,
    IssueCode,
    Prior,
    State,
    Trigger,
    remembers_prior,
    rule_for,
)
from tests.fixtures.states import next_state

CALLS = {State.ACTIVE, State.DEGRADED}
NEEDS_A_PERSON = {
    State.REAUTHORIZATION_REQUIRED: IssueCode.REAUTHORIZATION_REQUIRED,
    State.BLOCKED: IssueCode.BLOCKED,
}
ENDED = {State.DISCONNECTING, State.DISCONNECTED}


@dataclass
class Model:
    """A connection that follows the table."""

    state: State = State.PENDING
    prior: State | None = None
    credits: str = "held"
    issue: IssueCode | None = None
    verified: bool = False

    def happen(self, trigger: Trigger) -> bool:
        rule = rule_for(self.state, trigger, prior=self.prior)
        if rule is None:
            assert next_state(self.state, trigger, prior=self.prior) is None
            return False
        target = next_state(self.state, trigger, prior=self.prior)
        assert target is not None and target != self.state
        match rule.credits:
            case Credits.HOLD:
                assert self.credits == "held"
            case Credits.POST:
                assert self.credits == "held"
                self.credits = "posted"
            case Credits.RETURN:
                self.credits = "returned"
            case None:
                pass
        self.issue = rule.raises or (None if rule.solves else self.issue)
        self.verified = self.verified or trigger is Trigger.PROBE_SUCCEEDED
        self.prior = self.state if remembers_prior(target) else None
        self.state = target
        return True


TRIGGERS = st.lists(st.sampled_from(list(Trigger)), max_size=40)


@given(triggers=TRIGGERS)
def test_what_holds_after_whatever_happened(triggers: list[Trigger]) -> None:
    connection = Model()
    for trigger in triggers:
        connection.happen(trigger)
        if connection.state in CALLS:
            assert connection.verified
        if connection.state in NEEDS_A_PERSON:
            assert connection.issue is NEEDS_A_PERSON[connection.state]
        if connection.state is State.DISCONNECTED:
            assert connection.credits == "returned" and connection.issue is None
        elif connection.verified:
            assert connection.credits == "posted"
        assert (connection.prior is not None) is remembers_prior(connection.state)


@given(triggers=TRIGGERS)
def test_only_a_probe_or_a_person_leads_from_where_nothing_is_called_to_where_something_is(
    triggers: list[Trigger],
) -> None:
    connection = Model()
    for trigger in triggers:
        before, prior = connection.state, connection.prior
        connection.happen(trigger)
        if before not in CALLS and connection.state in CALLS:
            proved = trigger is Trigger.PROBE_SUCCEEDED
            goes_back = (
                trigger
                in (
                    Trigger.RESUME_ASKED,
                    Trigger.PROBE_REFUSED,
                    Trigger.PROBE_DENIED,
                    Trigger.VERIFICATION_DEFERRED,
                )
                and prior in CALLS
            )
            assert proved or goes_back


@given(triggers=TRIGGERS)
def test_until_it_ends_a_connection_can_become_active_and_can_be_ended(triggers: list[Trigger]) -> None:
    connection = Model()
    for trigger in triggers:
        connection.happen(trigger)
    reached = reachable(connection.state, connection.prior)
    assert State.DISCONNECTED in reached
    assert (State.ACTIVE in reached) is (connection.state not in ENDED)


def reachable(state: State, prior: State | None) -> set[State]:
    seen, frontier = {(state, prior)}, [(state, prior)]
    while frontier:
        here, came_from = frontier.pop()
        for trigger in Trigger:
            target = next_state(here, trigger, prior=came_from)
            following = None if target is None else (target, here if remembers_prior(target) else None)
            if following is not None and following not in seen:
                seen.add(following)
                frontier.append(following)
    return {found for found, _ in seen}


def test_no_two_lines_apply_at_once() -> None:
    for rule in TABLE:
        others = [
            other
            for other in TABLE
            if other is not rule and (other.source, other.trigger) == (rule.source, rule.trigger)
        ]
        assert all(rule.prior and other.prior and not rule.prior & other.prior for other in others)


def test_where_it_came_from_is_known_where_it_is_needed() -> None:
    assert all(remembers_prior(rule.source) for rule in TABLE if rule.target is Prior.STATE or rule.prior)
