"""What somebody who follows the records of systems must have seen, by the systems' own journals. Pure; imports
nothing of the product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Thing = tuple[str, str, str]
"""connection, stream, key."""
State = Mapping[str, Any] | None
"""A body, or None: it was deleted. Each change has a body of its own."""


@dataclass(slots=True)
class Journal:
    """Every state that a thing at a system was in, in order, written by the system."""

    states: dict[Thing, list[State]] = field(default_factory=dict)

    def note(self, thing: Thing, state: State) -> None:
        """A change; what leaves it as it was is none."""
        held = self.states.setdefault(thing, [])
        if not held or held[-1] != state:
            held.append(state)


@dataclass(slots=True)
class Seen:
    """What a consumer was told of each thing, in order of arrival: version and state."""

    told: dict[Thing, list[tuple[int, State]]] = field(default_factory=dict)

    def note(self, item: Mapping[str, Any]) -> None:
        """An item of `/v1/records`, or a message of the topic."""
        thing = (item["connection"], item["stream"], item["key"])
        state = None if item["change"] == "deleted" else item["body"]
        self.told.setdefault(thing, []).append((item["version"], state))

    def holds(self, thing: Thing) -> State:
        """The state of the highest version."""
        return max(self.told.get(thing, [(0, None)]), key=lambda each: each[0])[1]


@dataclass(slots=True, kw_only=True)
class Followed:
    """What is wrong with what a consumer saw: each a text that names the thing."""

    missed: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    changes: int = 0
    """States that were seen."""

    @property
    def faults(self) -> list[str]:
        """All of them; the kind first."""
        kinds = ("missed", "invented", "disordered", "repeated")
        return [f"{kind}: {text}" for kind in kinds for text in getattr(self, kind)]


def judge_followed(journal: Journal, seen: Seen, *, once: bool) -> Followed:
    """Whether what was seen of each thing is its journal with gaps, in order, and ends where that ends.

    Changes that follow each other closely may be seen as one. `once`: each change is seen once. Otherwise a
    change may come again, also behind later ones: a consumer goes by the version.
    """
    found = Followed()
    for thing in sorted(journal.states.keys() | seen.told.keys()):
        states, told = journal.states.get(thing, []), seen.told.get(thing, [])
        found.changes += len(told)
        name = "/".join(thing)
        place, highest = -1, 0
        for version, state in told:
            following = next((at for at in range(place + 1, len(states)) if states[at] == state), None)
            if version <= highest:
                if once:
                    found.repeated.append(f"{name}: version {version} after {highest}")
            elif following is not None:
                place, highest = following, version
            elif state in states:
                found.disordered.append(f"{name}: version {version} is {state} again")
            else:
                found.invented.append(f"{name}: version {version} is {state}, which it never was")
        last = states[-1] if states else None
        if states and seen.holds(thing) != last:
            found.missed.append(f"{name}: last seen {seen.holds(thing)}, it is {last}")
    return found
