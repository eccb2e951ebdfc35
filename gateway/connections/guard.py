"""The guard around a connector. Whatever the connector raises, returns or does, its caller gets in time
either a checked answer or a `ConnectorError`, with values that can be stored. It must not know any particular
system.

Each call runs in a task of its own, for two reasons. A connector that cancels itself can be told from a
caller that is cancelled. And a call that does not end when it is cancelled holds up nobody: it is left
behind, and no further call is made until it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import cache, partial
from typing import Any, TypeVar

from gateway import bulkhead
from gateway.connections import storable
from gateway.connections.listed import listed
from gateway.model.connector import Capabilities, Connector, ProbeResult, RemoteReading
from gateway.model.errors import (
    BadConfiguration,
    ConnectorError,
    OutcomeUnknown,
    PageTooLarge,
    StoreError,
    Unavailable,
)
from gateway.model.exchange import EnsuresMeters, EventToRaise, ListsMeters, RaisesEvents, RemoteMeter
from gateway.model.inbound import (
    InboundPage,
    InboundStream,
    KeyPage,
    ListsKeys,
    ListsOpen,
    NotesEvents,
    ReadsRecords,
)
from gateway.model.outcome import Outcome, Rejected
from gateway.model.reading import Batch, Reading

T = TypeVar("T")

LEAVE_SECONDS = 1.0
"""How long a call that was cancelled has to end."""

CLOSE_SECONDS = 10.0


class Guarded:
    """A connector behind its guard, itself a `Connector`. Subclasses add what connectors may offer."""

    def __init__(
        self,
        connector: Connector,
        connection: str,
        *,
        secrets: Collection[str],
        max_wait_seconds: float,
        left_behind: set[asyncio.Future[Any]],
    ) -> None:
        """`max_wait_seconds`: a longer wait that a system asks for is cut to this. `left_behind`: calls that
        did not end, shared by all connectors of the connection.
        """
        self._connector = connector
        self._connection = connection
        self._secrets = secrets
        self._max_wait_seconds = max_wait_seconds
        self._left_behind = left_behind

    @property
    def capabilities(self) -> Capabilities:
        """The connector's own. Raises Unavailable where it cannot say."""
        with self._contained("capabilities") as contained:
            capabilities = at_once(lambda: self._connector.capabilities)
            if isinstance(capabilities, Capabilities):
                return capabilities
            raise TypeError(f"capabilities: {type(capabilities).__name__}")
        raise _unavailable(contained)

    async def probe(self) -> ProbeResult:
        """As the connector's."""
        return await self._call("probe", self._connector.probe, storable.probe_result)

    async def push(self, batch: Batch) -> Sequence[Outcome]:
        """As the connector's. An unforeseen error is an OutcomeUnknown: the system may have taken the batch
        before.
        """
        outcomes = partial(storable.outcomes, max_wait_seconds=self._max_wait_seconds)
        return await self._call("push", lambda: self._connector.push(batch), outcomes, OutcomeUnknown)

    async def find(self, readings: Sequence[Reading]) -> Mapping[str, RemoteReading]:
        """As the connector's."""
        return await self._call("find", lambda: self._connector.find(readings), storable.found_readings)

    async def close(self) -> None:
        """Never raises, and never takes long."""
        with self._contained("close"):
            closing = asyncio.ensure_future(_ended(self._connector.close))
            await self._wait(closing, CLOSE_SECONDS)
            if closing.done() and (error := _failure(closing)) is not None:
                raise error

    def _contained(self, part: bulkhead.Part) -> AbstractContextManager[bulkhead.Contained]:
        return bulkhead.contained(part, self._connection, secrets=self._secrets)

    async def _call(
        self,
        part: bulkhead.Part,
        call: Callable[[], Awaitable[Any]],
        checked: Callable[[Any], T],
        kind: type[Unavailable] = Unavailable,
    ) -> T:
        """The checked answer. Raises the connector's own ConnectorError, or `kind` for any other error."""
        if self._left_behind:
            with self._contained(part) as contained:
                raise TimeoutError("an earlier call has not ended although its time was over")
            raise _unavailable(contained)
        task = asyncio.ensure_future(_ended(call))
        await self._wait(task, None)
        own: ConnectorError | None = None
        with self._contained(part) as contained:
            error = _failure(task)
            if isinstance(error, ConnectorError):
                own = storable.error(error)
            elif error is not None:
                raise error
            else:
                try:
                    return checked(task.result())
                except (PageTooLarge, Unavailable) as given:  # the system's fault, and not the connector's
                    own = given
        if own is not None:
            raise own
        raise _unavailable(contained, kind)

    async def _wait(self, task: asyncio.Future[Any], seconds: float | None) -> None:
        """Waits until the task has ended. Where it has not when the time is over, or when we are cancelled,
        cancels it, and leaves it behind if even then it does not end.
        """
        try:
            await asyncio.wait({task}, timeout=seconds)
        finally:
            if not task.done():
                task.cancel()
                task.add_done_callback(self._forget)  # else asyncio logs what it raises, with its secrets
                try:
                    await asyncio.wait({task}, timeout=LEAVE_SECONDS)
                finally:
                    if not task.done():
                        self._left_behind.add(task)

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._left_behind.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: nobody waits for it any more


class GuardedLister(Guarded):
    """A connector that lists its meters."""

    async def meters(self) -> AsyncIterator[RemoteMeter]:
        """As the connector's."""
        connector = self._connector
        assert isinstance(connector, ListsMeters)
        for meter in await self._call("meters", lambda: listed(connector.meters()), storable.meters):
            yield meter


class GuardedRaiser(Guarded):
    """A connector that raises events."""

    async def raise_event(self, event: EventToRaise) -> Outcome:
        """As the connector's. An unforeseen error is an OutcomeUnknown: the system may have taken the event
        before.
        """
        connector = self._connector
        assert isinstance(connector, RaisesEvents)
        outcome = partial(storable.outcome, max_wait_seconds=self._max_wait_seconds)
        return await self._call("raise", lambda: connector.raise_event(event), outcome, OutcomeUnknown)


class GuardedNoter(Guarded):
    """A connector that notes what becomes of events."""

    async def note_event(self, remote_id: str, text: str) -> None:
        """As the connector's."""
        connector = self._connector
        assert isinstance(connector, NotesEvents)
        await self._call(
            "note", lambda: connector.note_event(remote_id, text), lambda _: None, OutcomeUnknown
        )


class GuardedMaker(Guarded):
    """A connector that makes meters."""

    async def ensure_meter(self, wanted: RemoteMeter) -> RemoteMeter | Rejected:
        """As the connector's."""
        connector = self._connector
        assert isinstance(connector, EnsuresMeters)
        made = partial(storable.made_meter, max_wait_seconds=self._max_wait_seconds)
        return await self._call("ensure", lambda: connector.ensure_meter(wanted), made)


class GuardedReader(Guarded):
    """A connector that reads records back. To ask a stream for what it does not offer raises
    BadConfiguration.
    """

    @property
    def inbound(self) -> Sequence[InboundStream]:
        """As the connector's. Raises Unavailable where it cannot say."""
        connector = self._connector
        assert isinstance(connector, ReadsRecords)
        with self._contained("capabilities") as contained:
            return storable.streams(at_once(lambda: connector.inbound))
        raise _unavailable(contained)

    async def remote_now(self, stream: str) -> datetime:
        """As the connector's."""
        connector = self._connector
        assert isinstance(connector, ReadsRecords)
        return await self._call("pull", lambda: connector.remote_now(stream), storable.instant)

    async def pull(
        self, stream: str, since: datetime | None, until: datetime, cursor: str | None = None
    ) -> InboundPage:
        """As the connector's."""
        connector = self._connector
        assert isinstance(connector, ReadsRecords)
        return await self._page(stream, lambda: connector.pull(stream, since, until, cursor))

    async def pull_open(self, stream: str, cursor: str | None = None) -> InboundPage:
        """As the connector's."""
        connector = self._connector
        if not isinstance(connector, ListsOpen) or not self._declared(stream, lambda each: each.lists_open):
            raise BadConfiguration(f"stream {stream}: the connector does not list what is open")
        return await self._page(stream, lambda: connector.pull_open(stream, cursor))

    async def keys(self, stream: str, cursor: str | None = None) -> KeyPage:
        """As the connector's."""
        connector = self._connector
        if not isinstance(connector, ListsKeys) or not self._declared(
            stream, lambda each: each.deletions == "keys"
        ):
            raise BadConfiguration(f"stream {stream}: the connector does not list keys")
        return await self._call(
            "pull",
            lambda: connector.keys(stream, cursor),
            lambda answer: storable.page_of_keys(answer, stream),
        )

    def _declared(self, stream: str, offers: Callable[[InboundStream], bool]) -> bool:
        return any(offers(each) for each in self.inbound if each.name == stream)

    async def _page(self, stream: str, call: Callable[[], Awaitable[Any]]) -> InboundPage:
        page = next((each.page for each in self.inbound if each.name == stream), 0)

        async def asked() -> InboundPage:
            return await storable.page_of_records(await call(), stream, most=page)

        return await self._call("pull", asked, lambda page: page)


_OFFERS: tuple[tuple[type, type[Guarded]], ...] = (
    (ListsMeters, GuardedLister),
    (RaisesEvents, GuardedRaiser),
    (NotesEvents, GuardedNoter),
    (EnsuresMeters, GuardedMaker),
    (ReadsRecords, GuardedReader),
)


@cache
def _kind(offered: tuple[type[Guarded], ...]) -> type[Guarded]:
    """A class for each combination of offers that occurs: callers ask with `isinstance` what a connector
    offers, so its guard must offer just that.
    """
    return type("GuardedConnector", offered or (Guarded,), {})


def guarded(
    connector: Connector,
    connection: str,
    *,
    secrets: Collection[str],
    max_wait_seconds: float,
    left_behind: set[asyncio.Future[Any]],
) -> Guarded:
    """The connector behind its guard. It offers what the connector offers."""
    kind = _kind(tuple(guard for offer, guard in _OFFERS if isinstance(connector, offer)))
    return kind(
        connector,
        connection,
        secrets=secrets,
        max_wait_seconds=max_wait_seconds,
        left_behind=left_behind,
    )


def at_once(call: Callable[[], T]) -> T:
    """The result of a call that is not awaited. A BaseException (a panic, an exit) becomes an Exception, for
    nobody has cancelled the call.
    """
    try:
        return call()
    except Exception:
        raise
    except BaseException as error:
        raise RuntimeError(f"{type(error).__name__} from the connector") from error


async def _ended(call: Callable[[], Awaitable[T]]) -> T:
    """The result of the call. One that asks the process to exit becomes an Exception."""
    try:
        return await call()
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"{type(error).__name__} from the connector") from error


def _failure(task: asyncio.Future[Any]) -> Exception | None:
    """What a call that has ended raised, made an Exception that the bulkhead contains."""
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if error is None or (isinstance(error, Exception) and not isinstance(error, StoreError)):
        return error
    made = RuntimeError(f"{type(error).__name__} from the connector")
    made.__cause__ = error
    return made


def _unavailable(contained: bulkhead.Contained, kind: type[Unavailable] = Unavailable) -> Unavailable:
    assert contained.fault is not None
    return kind(contained.fault.text, reference=contained.fault.reference)
