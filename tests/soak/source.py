"""A system of records with a journal of its own, a clock that can be set wrong, and tokens that end: orders
that are asked for by their time of change, and sites that are listed whole.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Literal
from urllib.parse import parse_qs

from tests.soak.followed import Journal
from tests.soak.web import Asked, Web

Mood = Literal["well", "503", "429", "lost", "cut", "slow"]
"""`lost`: done, but not said. `cut`: neither."""
NOW_AND_THEN: tuple[tuple[Mood, float], ...] = (("lost", 0.02), ("503", 0.01), ("cut", 0.01), ("429", 0.01))
ORDERS, SITES = 300, 25
TOKEN_SECONDS = 20.0
_MOST_DELETED = 0.1
"""Of each kind: more than a fifth in one look would be asked about."""
_STATUSES = ("OPEN", "IN_PROGRESS", "DONE")
_CHANGED = "%Y-%m-%dT%H:%M:%S.%f"


class Grants:
    """An authorization server that rotates: a refresh token is of no more use once what it brought is used.
    Each consent is a family of its own.

    `stale` counts what was presented after that, which a real server answers by revoking everything;
    `repeats`, what was presented again before, because an answer was lost.
    """

    def __init__(self) -> None:
        self.issued = self.repeats = 0
        self.stale: list[str] = []
        self.is_revoked = False
        """What was granted; a person gives another."""
        self._numbers = 0
        self._good: set[str] = set()
        self._access: dict[str, float] = {}
        self._made: dict[str, tuple[str, str]] = {}
        self._used: set[str] = set()

    def _word(self, kind: str) -> str:
        self._numbers += 1
        return f"{kind}-{self._numbers}"

    def grant(self) -> str:
        """A person consents: the refresh token to begin with."""
        self.is_revoked = False
        token = self._word("refresh")
        self._good.add(token)
        return token

    def end_access(self) -> None:
        """Every access token is of no use any more, long before its time."""
        self._access.clear()

    def revoke(self) -> None:
        """All, for good."""
        self.is_revoked = True
        self._good.clear()
        self._made.clear()
        self.end_access()

    def lets_in(self, token: str) -> bool:
        """Whether the access token is good now."""
        self._used.add(token)
        return self._access.get(token, 0.0) > time.monotonic()

    def exchange(self, refresh_token: str) -> dict[str, object] | None:
        """New tokens for one that is good; else None."""
        made = self._made.get(refresh_token)
        if made is not None and (made[0] in self._used or made[1] in self._made):
            self.stale.append(f"{refresh_token} came again after {made[0]} was used")
            self.revoke()
            return None
        if made is not None:
            self.repeats += 1
        elif refresh_token not in self._good:
            return None
        else:
            made = self._made[refresh_token] = (self._word("access"), self._word("refresh"))
            self._good.remove(refresh_token)
            self._good.add(made[1])
            self.issued += 1
        self._access[made[0]] = time.monotonic() + TOKEN_SECONDS
        return {
            "access_token": made[0],
            "refresh_token": made[1],
            "token_type": "Bearer",
            "expires_in": TOKEN_SECONDS,
        }


class Source(Web):
    """The system. Its people are whoever calls `work`."""

    def __init__(self, name: str, journal: Journal, *, seed: int) -> None:
        super().__init__()
        self.mood: Mood = "well"
        self.calm = False
        """No faults by chance any more."""
        self.ahead = timedelta(0)
        """How far its clock is wrong."""
        self.grants = Grants()
        self.faults: Counter[str] = Counter()
        self.changes = 0
        self._name, self._journal, self._chance = name, journal, random.Random(seed)
        self._orders: dict[str, dict[str, Any]] = {}
        self._sites: dict[str, dict[str, Any]] = {}
        for number in range(ORDERS):
            age = timedelta(days=self._chance.uniform(0.0, 2.9))
            self._change_order(f"o{number}", at=datetime.now(UTC) - age)
        for number in range(SITES):
            self._change_site(f"s{number}")

    @property
    def settings(self) -> dict[str, object]:
        """Of a connection to it."""
        orders = {
            "path": "/orders",
            "modified": "updatedAt",
            "query": {"since": "{since}", "until": "{until}", "limit": "{page}"},
            "paging": {"kind": "cursor", "path": "next", "parameter": "cursor"},
            "deleted": {"path": "deletedAt"},
            "progress": {"path": "status", "open": ["OPEN"], "acknowledged": ["IN_PROGRESS"], "closed": ["DONE"]},
            "page": 50,
            "lookback_seconds": 10,
        }  # fmt: skip
        streams = {"orders": orders, "sites": {"path": "/sites"}}
        return {"base_url": self.url, "probe_path": "/probe", "streams": streams}

    @property
    def credentials(self) -> dict[str, str]:
        """Of a person who has consented just now."""
        return {
            "type": "oauth2_authorization_code",
            "token_url": f"{self.url}/token",
            "authorization_url": f"{self.url}/authorize",
            "client_id": "gateway",
            "client_secret": "of the client",
            "refresh_token": self.grants.grant(),
        }

    @property
    def clock(self) -> datetime:
        """What it takes for now."""
        return datetime.now(UTC) + self.ahead

    def work(self, changes: int, *, deletes: bool) -> None:
        """People change what there is, delete a little and write new ones."""
        for _ in range(changes):
            place, gone = self._chance.random(), deletes and self._chance.random() < 0.05
            if place < 0.15:
                self._change_site(f"s{self._chance.randrange(SITES)}", gone=gone)
            elif place < 0.2:
                self._change_order(f"n{self.changes}", at=self.clock)
            else:
                self._change_order(f"o{self._chance.randrange(ORDERS)}", at=self.clock, gone=gone)

    def save_again(self, since: int) -> None:
        """Whatever was changed after so many changes, by a clock that is right by now."""
        for key, order in list(self._orders.items()):
            if order["number"] > since:
                self._change_order(key, at=self.clock, gone=order["deletedAt"] is not None)

    def _change_order(self, key: str, *, at: datetime, gone: bool = False) -> None:
        self.changes += 1
        written = f"{at.strftime(_CHANGED)[:-3]}Z"
        body = {
            "id": key,
            "number": self.changes,
            "status": self._chance.choice(_STATUSES),
            "updatedAt": written,
            "deletedAt": written if gone else None,
        }
        self._orders[key] = body
        self._journal.note((self._name, "orders", key), None if gone else body)

    def _change_site(self, key: str, *, gone: bool = False) -> None:
        self.changes += 1
        if gone and len(self._sites) > SITES * (1 - _MOST_DELETED):
            self._sites.pop(key, None)
            self._journal.note((self._name, "sites", key), None)
            return
        self._sites[key] = {"id": key, "number": self.changes}
        self._journal.note((self._name, "sites", key), self._sites[key])

    async def answer(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        """As the mood has it, or chance."""
        mood = self._fault()
        if mood != "well":
            self.faults[mood] += 1
        if mood == "slow":
            await asyncio.sleep(self._chance.uniform(0.3, 1.5))
        if mood in ("503", "429"):
            return self._tell(writer, mood, {}, {"Retry-After": "1"})
        if mood != "cut":
            status, document = self._answer(asked)
            if mood != "lost":
                return self._tell(writer, status, document)
        writer.transport.abort()
        return False

    def _tell(
        self,
        writer: asyncio.StreamWriter,
        status: str,
        document: object,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        date = format_datetime(self.clock.replace(microsecond=0), usegmt=True)
        return self.say(writer, f"{status} As told", document, {"Date": date, **(headers or {})})

    def _fault(self) -> Mood:
        if self.mood != "well" or self.calm:
            return self.mood
        place = self._chance.random()
        for mood, share in NOW_AND_THEN:
            if place < share:
                return mood
            place -= share
        return "well"

    def _answer(self, asked: Asked) -> tuple[str, object]:
        if asked.path == "/token":
            form = parse_qs(asked.body.decode())
            given = self.grants.exchange(form.get("refresh_token", [""])[0])
            return ("200", given) if given is not None else ("400", {"error": "invalid_grant"})
        if not self.grants.lets_in(asked.headers.get("authorization", "").removeprefix("Bearer ")):
            return "401", {"detail": "not let in"}
        match asked.path:
            case "/orders":
                return "200", self._listed(asked.query)
            case "/sites":
                return "200", {"items": list(self._sites.values())}
            case _:
                return "200", {}

    def _listed(self, query: Mapping[str, str]) -> dict[str, object]:
        """Ascending by time of change: what changes in the midst of a walk is met again behind it."""
        low, high = query.get("since", ""), query.get("until", "9999")
        low, high = (_sortable(text) for text in (low, high))
        after = query.get("cursor", "")
        found = sorted(
            (order["updatedAt"] + order["id"], order)
            for order in self._orders.values()
            if low <= order["updatedAt"] < high and order["updatedAt"] + order["id"] > after
        )
        size = int(query.get("limit", "50"))
        page = found[:size]
        following = page[-1][0] if len(found) > size else None
        return {"items": [order for _, order in page], "next": following}


def _sortable(text: str) -> str:
    """A time as orders bear it, so that texts compare as times do; others stay."""
    if len(text) < 10:
        return text
    return f"{datetime.fromisoformat(text).astimezone(UTC).strftime(_CHANGED)[:-3]}Z"
