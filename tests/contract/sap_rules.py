"""SAP's rules in front of OData servers that others wrote, the same for both versions of OData.

The servers know the protocol and nothing of SAP; what this file adds is a simulation after public
descriptions, and no more:
- `SapFront`, ASGI middleware: Basic logon (three failures lock the user), bearer tokens, session cookies, a
CSRF token bound to the session,
  the system's own clock in `Date`, and faults on demand, before or after the work was done;
- `SapRules`: numbers are assigned, a measuring point holds one document a second, nothing from the future,
locked and inactive points, units
  and their conversion to SI and back, counters that do not run backwards, warnings (`sap-messages`),
  notifications with a time of change.
The codes are symbolic, after the exceptions of SAP's function module: the numbers that a release gives them
are not public.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from zoneinfo import ZoneInfo

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Refusal(Exception):
    """SAP refuses one document."""

    def __init__(self, code: str, message: str, target: str = "", status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.target, self.status = code, message, target, status


@dataclass(slots=True)
class MeasuringPoint:
    """`factors` and `offsets` bring a value of a unit to SI."""

    unit: str = "GC"
    factors: dict[str, float] = field(default_factory=lambda: {"GC": 1.0, "K": 1.0})
    offsets: dict[str, float] = field(default_factory=lambda: {"GC": 273.15})
    counter: bool = False
    inactive: bool = False
    locked: bool = False
    warns_above: float = 1e15


@dataclass(slots=True)
class Document:
    number: str
    value: float
    si: float
    text: str
    reversed: bool = False


@dataclass(slots=True)
class Assigned:
    """What SAP adds to a document, and the warning it says beside."""

    number: str
    point: str
    unit: str
    si: float
    entry: float
    counter: float
    warning: str | None


class SapRules:
    """One SAP client's documents, points and notifications. Times are wall times of `zone`; the clock runs
    `ahead` of the machine's.
    """

    def __init__(self, zone: str = "UTC") -> None:
        self.zone = ZoneInfo(zone)
        self.ahead = timedelta(0)
        self.points: dict[str, MeasuringPoint] = {}
        self.documents: dict[tuple[str, datetime], Document] = {}
        self.notifications: list[dict[str, Any]] = []
        self.created = 0
        self._number = 10_000_000

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def held(self) -> dict[tuple[str, datetime], list[Any]]:
        """The values as they were entered, by point and instant; an hour that the zone has twice cannot be
        told apart.
        """
        return {
            (point, at.replace(tzinfo=self.zone).astimezone(UTC)): [document.value]
            for (point, at), document in self.documents.items()
        }

    def take_document(
        self, point: str, at: datetime, value: float | None, unit: str, text: str, is_difference: bool = False
    ) -> Assigned:
        """`at` is a naive wall time. Raises Refusal."""
        number = point.lstrip("0")
        known = self.points.get(number)
        if known is None:
            raise Refusal("IR/POINT_NOT_FOUND", f"Measuring point {number} does not exist", "MeasuringPoint")
        if known.inactive:
            raise Refusal("IR/POINT_INACTIVE", f"Measuring point {number} is inactive", "MeasuringPoint")
        if known.locked:
            raise Refusal(
                "IR/POINT_LOCKED", f"Measuring point {number} is locked by user SMITH", "MeasuringPoint"
            )
        at = at.replace(microsecond=0)
        if at > self.now().astimezone(self.zone).replace(tzinfo=None):
            raise Refusal("IR/TIMESTAMP_IN_FUTURE", f"Reading {at} lies in the future", "MsmtRdngTime")
        if (number, at) in self.documents:
            raise Refusal(
                "IR/TIMESTAMP_DUPREC", f"Document already exists for point {number} at {at}", "MsmtRdngTime"
            )
        if value is None or not abs(value) <= 1e16:
            raise Refusal(
                "IR/VALUE_MISSING" if value is None else "IR/VALUE_OVERFLOW",
                "Enter a reading",
                "MeasurementReadingInEntryUoM",
            )
        unit = unit or known.unit
        if unit not in known.factors:
            raise Refusal(
                "IR/UNIT_UNFIT", f"Unit {unit} does not fit {known.unit}", "MeasurementReadingEntryUoM"
            )
        si = value * known.factors[unit] + known.offsets.get(unit, 0.0)
        if known.counter:
            earlier = [
                (when, held.si)
                for (other, when), held in self.documents.items()
                if other == number and when < at
            ]
            previous = max(earlier)[1] if earlier else None
            if is_difference:
                si += previous or 0.0
            elif previous is not None and si < previous:
                raise Refusal(
                    "IR/VALUE_UNFIT",
                    f"Counter reading {value} is lower than the previous one",
                    "MeasurementReadingInEntryUoM",
                )
        self._number += 1
        self.created += 1
        self.documents[number, at] = Document(number=str(self._number), value=value, si=si, text=text)
        entry = (si - known.offsets.get(unit, 0.0)) / known.factors[unit]
        warning = (
            f"Reading {value} is above the limit of point {number}" if value > known.warns_above else None
        )
        return Assigned(str(self._number), number, unit, si, entry, si if known.counter else 0.0, warning)

    def forget_document(self, number: str) -> None:
        """A changeset is undone."""
        for slot, document in list(self.documents.items()):
            if document.number == number:
                del self.documents[slot]

    def take_notification(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The number and the time of change. Raises Refusal."""
        if fields.get("NotificationType") not in ("M1", "M2"):
            raise Refusal(
                "IM/REFUSED",
                f"Notification type {fields.get('NotificationType')!r} is not defined",
                "NotificationType",
            )
        number = str(10_000_001 + len(self.notifications))
        assigned = {
            "MaintenanceNotification": number,
            "LastChangeDateTime": int(self.now().timestamp()) * 1000,
        }
        self.notifications.append({**fields, **assigned})
        return assigned


def envelope(version: int, code: str, message: str, target: str = "") -> bytes:
    """An error as the version's Gateway writes it."""
    transaction = secrets.token_hex(16).upper()
    if version == 4:
        error: dict[str, Any] = {
            "code": code,
            "message": message,
            "@SAP__common.ExceptionCategory": "Client_Error",
        }
        error |= (
            {"target": target, "details": [{"code": code, "message": message, "target": target}]}
            if target
            else {}
        )
        error["innererror"] = {"ErrorDetails": {"@SAP__common.TransactionId": transaction}}
    else:
        details = [{"code": code, "message": message, "severity": "error", "target": target}]
        error = {
            "code": code,
            "message": {"lang": "en", "value": message},
            "innererror": {"transactionid": transaction, "errordetails": details},
        }
    return json.dumps({"error": error}).encode()


@dataclass(slots=True)
class Fault:
    """Of the next `times` requests that fit. `after`: the work is done, and the answer lost."""

    status: int = 503
    headers: tuple[tuple[str, str], ...] = ()
    cut: bool = False
    after: bool = False
    path: str = "$batch"
    methods: tuple[str, ...] = ("POST",)
    times: int = 1


@dataclass(slots=True)
class _Session:
    user: str
    token: str | None = None


class SapFront:
    """See the module. `certificates`: the connection itself was authorised by TLS."""

    def __init__(
        self,
        app: App,
        rules: SapRules,
        *,
        users: dict[str, str],
        lock_after: int = 3,
        certificates: bool = False,
    ) -> None:
        self.app, self.rules, self.users, self.lock_after, self.certificates = (
            app,
            rules,
            users,
            lock_after,
            certificates,
        )
        self.tokens: set[str] = set()
        self.failed_logons: dict[str, int] = {}
        self.sessions: dict[str, _Session] = {}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str, int]] = []
        self.queries: list[str] = []
        self.authorizations: list[str] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        method, path = scope["method"], scope["path"]
        version = 4 if "/odata4/" in path else 2
        exchange = _Exchange(self, send, method, path)
        body = await _read(receive)
        self.queries.append(scope["query_string"].decode())
        self.authorizations.append(headers.get("authorization", ""))
        fault = self._fault(method, path)
        if fault is not None and not fault.after:
            await exchange.fail(fault, version)
            return
        user = self._user(headers.get("authorization", ""))
        if user is None:
            page = b"<html><head><title>Logon Error Message</title></head></html>"
            await exchange.reply(
                401,
                page,
                "text/html;charset=utf-8",
                ("www-authenticate", 'Basic realm="SAP NetWeaver Application Server"'),
            )
            return
        session = self._session(user, headers.get("cookie", ""), exchange)
        wanted = headers.get("x-csrf-token", "")
        if method in ("GET", "HEAD"):
            if wanted.lower() == "fetch":
                session.token = session.token or base64.b64encode(secrets.token_bytes(18)).decode()
                exchange.extra.append(("x-csrf-token", session.token))
        elif session.token is None or not secrets.compare_digest(wanted, session.token):
            exchange.extra.append(("x-csrf-token", "Required"))
            words = "CSRF token validation failed"
            body, content_type = (
                (words.encode(), "text/plain")
                if version == 2
                else (envelope(4, "/IWFND/CM_CSRF", words), "application/json")
            )
            await exchange.reply(403, body, content_type)
            return
        if fault is None:
            await self.app(scope, _replay(body), exchange.forward)
        else:
            await self.app(scope, _replay(body), _swallow)
            await exchange.fail(fault, version)

    def _fault(self, method: str, path: str) -> Fault | None:
        fault = next((item for item in self.faults if item.path in path and method in item.methods), None)
        if fault is not None:
            fault.times -= 1
            if fault.times <= 0:
                self.faults.remove(fault)
        return fault

    def _user(self, authorization: str) -> str | None:
        kind, _, secret = authorization.partition(" ")
        if kind == "Bearer":
            return "oauth" if secret in self.tokens else None
        if kind != "Basic":
            return "certificate" if self.certificates else None
        user, _, password = base64.b64decode(secret).decode().partition(":")
        failed = self.failed_logons.get(user, 0)
        if failed >= self.lock_after:  # locked: the right password fails too
            return None
        right = self.users.get(user) == password
        self.failed_logons[user] = 0 if right else failed + 1
        return user if right else None

    def _session(self, user: str, cookie: str, exchange: _Exchange) -> _Session:
        name = "SAP_SESSIONID_S4H_100"
        given = next(
            (
                part.strip().partition("=")[2]
                for part in cookie.split(";")
                if part.strip().startswith(name + "=")
            ),
            "",
        )
        session = self.sessions.get(given)
        if session is None or session.user != user:
            given = secrets.token_urlsafe(24)
            session = self.sessions[given] = _Session(user)
            exchange.extra += [
                ("set-cookie", f"{name}={given}; path=/; HttpOnly"),
                ("set-cookie", "sap-usercontext=sap-client=100; path=/"),
            ]
        return session


class _Exchange:
    def __init__(self, front: SapFront, send: Send, method: str, path: str) -> None:
        self.front, self.send, self.method, self.path = front, send, method, path
        self.extra: list[tuple[str, str]] = []

    async def forward(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.front.log.append((self.method, self.path, message["status"]))
            kept = [
                (name, value)
                for name, value in message["headers"]
                if name.lower() not in (b"x-csrf-token", b"date")
            ]
            message = {**message, "headers": kept + self._headers()}
        await self.send(message)

    async def reply(self, status: int, body: bytes, content_type: str, *headers: tuple[str, str]) -> None:
        self.front.log.append((self.method, self.path, status))
        all_headers = [("content-type", content_type), ("content-length", str(len(body))), *headers]
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*_bytes(all_headers), *self._headers()],
            }
        )
        await self.send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def fail(self, fault: Fault, version: int) -> None:
        if fault.cut:  # promises 99 bytes and sends none: the server closes the socket
            start = {
                "type": "http.response.start",
                "status": 200,
                "headers": _bytes([("content-length", "99"), ("content-type", "application/json")]),
            }
            await self.send(start)
            await self.send({"type": "http.response.body", "body": b""})
        else:
            await self.reply(
                fault.status,
                envelope(version, str(fault.status), "Injected"),
                "application/json",
                *fault.headers,
            )

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return _bytes([*self.extra, ("date", format_datetime(self.front.rules.now(), usegmt=True))])


def _bytes(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _replay(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _swallow(message: Message) -> None:
    """An answer that never arrives."""
