"""Settings and credentials are tried at the system before anything is stored or charged. It keeps nothing
secret: of a technical user's logons only how many may still fail, under a keyed digest.

The logons of a user that is tried are counted over all replicas, as those of a stored password are: systems
lock a user at the third. A place is taken before the call and given back after it, so two who try at once are
counted both.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import timedelta
from itertools import islice

import orjson
import structlog

from gateway import clock
from gateway.connections.building import ConnectedSystem, build_guarded
from gateway.connections.guard import Guarded
from gateway.connections.screening import reach_of
from gateway.connections.service import Connections
from gateway.model.access import Caller
from gateway.model.address import targets
from gateway.model.connector import ConnectorSettings, Observer
from gateway.model.credential import Credential, Logon, LogonGate, TokenExchange, TokenGrant, TokenSource
from gateway.model.errors import AuthRefused, ConnectorError, RequestRefused, StoreError, Unavailable
from gateway.model.exchange import ListsMeters, RemoteMeter
from gateway.model.inbound import ReadsRecords
from gateway.model.verification import Readable, Verdict, Verification, refused_by
from gateway.settings import ConnectionSettings, Settings
from gateway.store import trying
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

PROBE_SECONDS = 20.0
LOOK_SECONDS = 15.0
"""For what can be read beside the probe, in all."""

CALL_SECONDS = 10.0
AT_ONCE, WAITING = 4, 16
"""Tries of this process that are under way, and that wait for one of these to end."""

OF_ONE_CUSTOMER = 2
"""Of these: a system that hangs must not keep the turns of the others."""

MAX_FAILED_LOGONS = 2
FORGET_SECONDS = 1800.0
"""Most systems forget failed logons within half an hour, or never."""

MAX_METERS = 500
MAX_STREAMS = 8


class Verifier:
    """Tries what is given. Nothing of it is stored."""

    def __init__(
        self,
        database: Database,
        systems: Mapping[str, ConnectedSystem],
        settings: Settings,
        service: Connections,
        exchange: TokenExchange,
        observer: Callable[[str], Observer],
    ) -> None:
        self._database = database
        self._systems = systems
        self._settings = settings
        self._service = service
        self._exchange = exchange
        self._observer = observer
        self._key = settings.security.encryption_keys[-1].get_secret_value().encode()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._asked: Counter[str] = Counter()

    async def verify(
        self, wanted: ConnectionSettings, caller: Caller, *, grant: TokenGrant | None = None
    ) -> Verification:
        """What the system says. `grant`: the tokens of a login on the system's own page.

        Raises RequestRefused: request.invalid before anything was sent, request.unsupported for a refresh
        token, which trying would use up, gateway.overloaded while too many are tried.
        """
        checked = (await self._service.check(wanted, caller)).settings
        if checked.credentials.type == "oauth2_authorization_code" and grant is None:
            raise RequestRefused(
                "request.unsupported",
                "a login on the system's own page cannot be tried without that login: connect with the"
                " wizard, or by a connect link (a refresh token would be used up by trying it)",
            )
        own = self._asked[checked.customer]
        if own >= OF_ONE_CUSTOMER or self._asked.total() >= AT_ONCE + WAITING:
            raise RequestRefused(
                "gateway.overloaded", "Too many systems are being tried now; try again.", retry_after=5.0
            )
        self._asked[checked.customer] += 1
        try:
            async with self._turns:
                found = await self._try(checked, caller, grant)
        finally:
            self._asked[checked.customer] -= 1
            if not self._asked[checked.customer]:
                del self._asked[checked.customer]
        log.info(
            "connection.tried", system=checked.system, customer=checked.customer, verdict=found.verdict.value
        )
        return found

    async def _try(
        self, wanted: ConnectionSettings, caller: Caller, grant: TokenGrant | None
    ) -> Verification:
        connector: Guarded | None = None
        try:
            connector = self._connector(wanted, caller, grant)
            async with asyncio.timeout(PROBE_SECONDS):
                answer = await connector.probe()
            looked = await self._look(connector)
            return Verification(
                verdict=Verdict.VERIFIED,
                detail=answer.detail,
                account=answer.account,
                records=looked[0],
                meters=looked[1],
                meters_detail=looked[2],
            )
        except (ConnectorError, TimeoutError) as error:
            return refused_by(error)
        finally:
            if connector is not None:
                await connector.close()

    def _connector(self, wanted: ConnectionSettings, caller: Caller, grant: TokenGrant | None) -> Guarded:
        given = wanted.credentials.resolved()
        reach = reach_of(self._settings, wanted.customer, caller.origin)
        token: TokenSource | None = None
        gate: LogonGate | None = None
        if wanted.credentials.type.startswith("oauth2_"):
            credential = Credential(generation=0, type=wanted.credentials.type, values=given, reach=reach)
            token = _OneToken(self._exchange, credential, grant)
        elif wanted.credentials.type == "basic":
            gate = _Gate(self._database, self._digest(wanted, given.get("username", "")))
        built_from = ConnectorSettings(
            connection=wanted.id,
            hosting=wanted.hosting,
            settings=wanted.settings,
            credentials=given,
            timeout_seconds=min(CALL_SECONDS, self._settings.sync.push_timeout.total_seconds()),
            observe=self._observer(wanted.system),
            token=token,
            gate=gate,
            settings_reach=reach,
            credentials_reach=reach,
        )
        return build_guarded(
            self._systems[wanted.system],
            built_from,
            max_wait_seconds=self._settings.sync.max_wait.total_seconds(),
            left_behind=set(),
        )

    def _digest(self, wanted: ConnectionSettings, user: str) -> bytes:
        """Of the user at its hosts, however its address and its name are spelled; nothing can be read back of
        it.
        """
        hosts = sorted({(found.host.lower(), found.port) for found in targets(wanted.settings)})
        place = orjson.dumps([wanted.system, hosts, user.strip().casefold()])
        return hmac.new(self._key, b"tried " + place, hashlib.sha256).digest()

    async def _look(
        self, connector: Guarded
    ) -> tuple[tuple[Readable, ...], tuple[RemoteMeter, ...] | None, str]:
        """What can be read: meters and records, as far as there is time. A refusal of these refuses nothing
        else.
        """
        until = clock.monotonic() + LOOK_SECONDS
        meters: tuple[RemoteMeter, ...] | None = None
        words = ""
        if isinstance(connector, ListsMeters):
            try:
                async with asyncio.timeout(max(until - clock.monotonic(), 0.0)):
                    listed = connector.meters()
                    meters = tuple([meter async for meter in listed][:MAX_METERS])
            except (ConnectorError, TimeoutError) as error:
                words = str(error) or "its meters could not be read in time"
        records: list[Readable] = []
        if isinstance(connector, ReadsRecords):
            now = clock.now()
            for stream in islice(connector.inbound, MAX_STREAMS):
                said = ""
                try:
                    async with asyncio.timeout(max(until - clock.monotonic(), 0.0)):
                        await connector.pull(stream.name, now - timedelta(seconds=1), now)
                except (ConnectorError, TimeoutError) as error:
                    said = str(error) or "not read in time"
                records.append(Readable(stream=stream.name, title=stream.title, detail=said))
        return tuple(records), meters, words


class _OneToken:
    """A TokenSource for one try: a token is asked for once, or is that of the login."""

    def __init__(self, exchange: TokenExchange, credential: Credential, grant: TokenGrant | None) -> None:
        self._exchange = exchange
        self._credential = credential
        self._token = None if grant is None else grant.access_token

    async def access_token(self, *, refused: str | None = None) -> str:
        """Raises AuthRefused for a token that the system has refused: a new one would be of the same kind."""
        if refused is not None:
            raise AuthRefused("the system refuses the token that its authorization server gave", final=True)
        if self._token is None:
            grant = await self._exchange.refresh(self._credential, None, timeout_seconds=CALL_SECONDS)
            self._token = grant.access_token
        return self._token


class _Tried:
    """A Logon."""

    def __init__(self) -> None:
        self.was_refused: bool | None = None

    def refused(self) -> None:
        """The system refused the user or the password."""
        self.was_refused = True

    def accepted(self) -> None:
        """The system let the user in."""
        self.was_refused = False


class _Gate:
    """A LogonGate of a user that is tried."""

    def __init__(self, database: Database, digest: bytes) -> None:
        self._database = database
        self._digest = digest

    def attempt(self, _operation: str = "call", /) -> AbstractAsyncContextManager[Logon]:
        """Raises Unavailable where no further logon may fail, and nothing is sent."""
        return self._attempt()

    @asynccontextmanager
    async def _attempt(self) -> AsyncIterator[Logon]:
        try:
            may = await trying.claim(
                self._database, self._digest, limit=MAX_FAILED_LOGONS, seconds=FORGET_SECONDS
            )
        except StoreError as error:
            raise Unavailable(f"whether a logon may be tried cannot be read: {error}") from error
        if not may:
            raise Unavailable(
                "two logons of this user were refused, and a third could lock it: nothing was sent; check"
                f" the user at the system, and try again in {FORGET_SECONDS / 60:.0f} minutes",
                retry_after=FORGET_SECONDS,
            )
        tried = _Tried()
        try:
            yield tried
        finally:
            if not tried.was_refused:
                # a refusal keeps its place, and a process that dies here leaves it taken: never one logon too
                # many
                with suppress(StoreError):
                    await asyncio.shield(
                        trying.ended(self._database, self._digest, accepted=tried.was_refused is False)
                    )
