"""The plan of a declared file against a model of what is stored."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.model.connection import State
from gateway.model.declaration import ApplyPlan, Declaration, DeclaredPart, Existing, plan
from gateway.model.errors import ConfigError

NAMES = [f"c{number}" for number in range(5)]


def declarations() -> st.SearchStrategy[Declaration]:
    few = st.dictionaries(st.sampled_from("ab"), st.integers(0, 1), max_size=2)
    return st.builds(
        Declaration,
        connection=st.sampled_from(NAMES),
        customer=st.sampled_from(["acme", "acme", "acme", "globex"]),
        system=st.sampled_from(["postgres", "postgres", "postgres", "maintainx"]),
        hosting=st.sampled_from(["cloud", "cloud", "on_premises"]),
        settings=few,
        sync=few,
        meters=st.lists(few, max_size=2),
        digest=st.sampled_from(["x", "y"]),
    )


declared_files = st.lists(declarations(), unique_by=lambda found: found.connection, max_size=5)
stores = st.lists(
    st.builds(Existing, declaration=declarations(), state=st.sampled_from(State), by_file=st.booleans()),
    unique_by=lambda found: found.declaration.connection,
    max_size=5,
)


def moved(declared: list[Declaration], existing: list[Existing]) -> list[str]:
    held = {found.declaration.connection: found.declaration for found in existing}
    return [
        d.connection
        for d in declared
        if d.connection in held
        and (held[d.connection].customer, held[d.connection].system) != (d.customer, d.system)
    ]


def carry_out(found: ApplyPlan, declared: list[Declaration], existing: list[Existing]) -> list[Existing]:
    """What is stored afterwards."""
    wanted = {each.connection: each for each in declared}
    after = {each.declaration.connection: each for each in existing}
    for name in found.create:
        assert name not in after
        after[name] = Existing(declaration=wanted[name], state=State.VERIFYING, by_file=True)
    for name, parts in found.change.items():
        old, new = after[name].declaration, wanted[name]
        changed = replace(
            old,
            settings=new.settings if DeclaredPart.SETTINGS in parts else old.settings,
            digest=new.digest if DeclaredPart.CREDENTIALS in parts else old.digest,
            sync=new.sync if DeclaredPart.SYNC in parts else old.sync,
            meters=new.meters if DeclaredPart.METERS in parts else old.meters,
        )
        after[name] = replace(
            after[name], declaration=changed, by_file=after[name].by_file or DeclaredPart.MANAGEMENT in parts
        )
    for name in found.prune:
        after[name] = replace(after[name], state=State.DISCONNECTING)
    return list(after.values())


@given(declared_files, stores, st.booleans())
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(
    declared: list[Declaration], existing: list[Existing], prune: bool
) -> None:
    assume(not moved(declared, existing))
    first = plan(declared, existing, prune=prune)
    after = carry_out(first, declared, existing)
    second = plan(declared, after, prune=prune)
    assert second.is_empty
    assert second.refused == first.refused
    held = {found.declaration.connection: found.declaration for found in after}
    assert all(held[each.connection] == each for each in declared if each.connection not in second.refused)


@given(declared_files, stores, st.booleans())
def test_each_declared_connection_has_one_fate(
    declared: list[Declaration], existing: list[Existing], prune: bool
) -> None:
    assume(not moved(declared, existing))
    found = plan(declared, existing, prune=prune)
    assert sorted([*found.create, *found.change, *found.unchanged, *found.refused]) == sorted(
        each.connection for each in declared
    )
    assert all(found.change.values()), "a change changes something"


@given(declared_files, stores)
def test_only_what_a_file_made_and_no_longer_names_is_pruned(
    declared: list[Declaration], existing: list[Existing]
) -> None:
    assume(not moved(declared, existing))
    assert plan(declared, existing, prune=False).prune == ()
    named = {each.connection for each in declared}
    ended = (State.DISCONNECTING, State.DISCONNECTED)
    wanted = {e.declaration.connection for e in existing if e.by_file and e.state not in ended} - named
    assert set(plan(declared, existing, prune=True).prune) == wanted


@given(declared_files, stores)
def test_customer_and_system_never_change(declared: list[Declaration], existing: list[Existing]) -> None:
    names = moved(declared, existing)
    assume(names)
    with pytest.raises(ConfigError) as raised:
        plan(declared, existing, prune=True)
    assert all(repr(name) in str(raised.value) for name in names)
