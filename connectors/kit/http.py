"""The HTTP client of a connector: one per connection, over pools that they share. Bounded in time and in
bytes, follows no redirect, and turns every failure into our errors.

It must not know any system: a connector says which call is idempotent and which refusals it wants to read
itself.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import httpx
import orjson

from connectors.kit.answer import Answer, Expected, parse_body
from connectors.kit.body import BodyRefused, read_body
from connectors.kit.classify import (
    asks_for_login,
    parse_clock,
    parse_date,
    parse_retry_after,
    to_error,
    unanswered,
)
from connectors.kit.cookies import cookie_jar
from connectors.kit.pools import Shared
from connectors.kit.requests import RequestMaker
from connectors.kit.words import words_of
from gateway.model.address import ANYWHERE, AddressRefused, Reach
from gateway.model.connector import Observer, unobserved
from gateway.model.errors import AuthRefused, BadConfiguration, ConnectorError

if TYPE_CHECKING:
    from connectors.kit.authorization import Authorization

MAX_BODY_BYTES = 8 << 20
LARGE_BYTES = 256 << 10
"""A larger answer is parsed in a thread: that may take a second, in which others have their turn."""

_REQUEST_ID_HEADERS = (
    "x-request-id",
    "x-correlation-id",
    "request-id",
    "x-amzn-requestid",
    "x-amz-cf-id",
    "cf-ray",
)
_CERTIFICATE_REFUSED = re.compile(
    r"alert (?:bad certificate|(?:no |unsupported )?certificate(?: expired| revoked| unknown)?|unknown"
    r" ca|access denied|decrypt error)",
    re.IGNORECASE,
)
# A header, an address or a body that HTTP or JSON cannot say.
_CANNOT_BE_SENT = (
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpx.InvalidURL,
    UnicodeError,
)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]+")


class HttpClient:
    """Calls one system with one credential. Keeps the system's cookies. Safe to use from several tasks."""

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str],
        secrets: Sequence[str],
        timeout_seconds: float,
        observe: Observer = unobserved,
        max_body_bytes: int = MAX_BODY_BYTES,
        tls: ssl.SSLContext | None = None,
        reach: Reach = ANYWHERE,
    ) -> None:
        """`headers` carry the credential; `secrets` are blacked out of every text that leaves here. TLS is
        always verified.

        `tls` is for an authority or a client certificate of the customer's own (`connectors.kit.tls`);
        clients share connections only where they were given the same context. `reach`: which addresses
        `base_url` may lead to. No request goes to another host than its own.
        """
        self._secrets = sorted((secret for secret in secrets if len(secret) >= 4), key=len, reverse=True)
        self._tokens: deque[str] = deque(maxlen=8)
        """Secrets that came after the client was made."""
        self._authorization: Authorization | None = None
        self._timeout_seconds = timeout_seconds
        self._observe = observe
        self._max_body_bytes = max_body_bytes
        self._clock: tuple[datetime, float] | None = None
        """The Date of the last answer, and our loop's time when it came."""
        self.cookies_given = 0
        """Answers that brought cookies: each may be of another session."""
        self._shared = Shared(tls=tls, reach=reach)
        try:
            self._client = httpx.AsyncClient(
                base_url=base_url,
                headers={
                    "accept": "application/json",
                    "accept-encoding": "gzip",
                    "user-agent": "fieldgate",
                    **headers,
                },
                timeout=timeout_seconds,
                cookies=cookie_jar(),
                transport=self._shared,
            )
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            raise BadConfiguration(
                f"the system's address or credential cannot be used in a request: {type(error).__name__}"
            ) from None
        self._requests = RequestMaker(self._client)

    async def close(self) -> None:
        """Idempotent."""
        await self._client.aclose()

    def system_time(self) -> datetime | None:
        """The system's own clock, from the last answer's Date and the time since; None before the first.
        Second resolution.
        """
        if self._clock is None:
            return None
        at, received = self._clock
        return at + timedelta(seconds=asyncio.get_running_loop().time() - received)

    def authorize(self, authorization: Authorization) -> None:
        """Every call carries this credential from now on."""
        self._authorization = authorization

    def conceal(self, secret: str) -> None:
        """Blacks this token out as well. The last eight are remembered."""
        if len(secret) >= 4 and secret not in self._tokens:
            self._tokens.append(secret)

    async def call(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        json: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | int] | None = None,
        idempotent: bool | None = None,
        accept_statuses: Collection[int] = (),
        expects: Expected = "json",
    ) -> Answer:
        """One request within the time-out, body included. Returns 2xx, and `accept_statuses`, which the
        caller reads itself.

        A query belongs into `path` or into `params`, never into both. `content` is sent as it is, under the
        content type in `headers`. `idempotent`: sending again is harmless, so a lost answer is Unavailable,
        not OutcomeUnknown; by default true of GET and HEAD. `operation` is the label under which the call is
        counted. Raises ConnectorError subclasses only.
        """
        send = partial(
            self._call,
            operation,
            method,
            path,
            json=json,
            content=content,
            params=params,
            idempotent=idempotent,
            accept_statuses=accept_statuses,
            expects=expects,
        )
        if self._authorization is None:
            return await send(headers or {})
        return await self._authorization.call(lambda given: send({**(headers or {}), **given}), operation)

    async def _call(
        self,
        operation: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        json: object,
        content: bytes | None,
        params: Mapping[str, str | int] | None,
        idempotent: bool | None,
        accept_statuses: Collection[int],
        expects: Expected,
    ) -> Answer:
        is_idempotent = method in ("GET", "HEAD") if idempotent is None else idempotent
        # an id in the path was the system's, which may give back what it was told in secret
        call = self.clean(f"{method} {path.partition('?')[0]}")
        sent = False

        async def trace(event: str, _info: Mapping[str, object]) -> None:
            nonlocal sent
            sent = sent or event.endswith("send_request_headers.started")

        status_class = "none"
        try:
            if self._client.is_closed:
                raise unanswered(f"{call} was not sent: the connection is being closed", idempotent=True)
            body = content if json is None else _body(json)
            typed = {} if json is None else {"content-type": "application/json"}
            request = self._requests.build(
                method, path, body, params, headers={**typed, **headers}, trace=trace, call=call
            )
            async with asyncio.timeout(self._timeout_seconds):
                answer = await self._exchange(request, idempotent=is_idempotent)
            status_class = f"{answer.status // 100}xx"
            is_good = answer.fits(expects) if 200 <= answer.status < 300 else answer.status in accept_statuses
            if is_good:
                return answer
            raise self._refusal(answer, call, expects, idempotent=is_idempotent)
        except AddressRefused as error:
            raise BadConfiguration(str(error)) from None
        except _CANNOT_BE_SENT as error:
            text = f"{call} cannot be sent ({type(error).__name__}): check the address and the credential"
            raise BadConfiguration(self.clean(text)) from None
        except (httpx.HTTPError, httpx.StreamError, OSError, TimeoutError) as error:
            raise self._unanswered(error, call, sent=sent, idempotent=is_idempotent) from error
        finally:
            self._observe(operation, status_class)

    def _unanswered(self, error: Exception, call: str, *, sent: bool, idempotent: bool) -> ConnectorError:
        if (alert := _certificate_alert(error)) is not None:
            return AuthRefused(
                self.clean(f"the system does not take our client certificate for {call}: {alert}")
            )
        what = f"no answer to {call}" if sent else f"cannot reach the system for {call}"
        return unanswered(
            self.clean(f"{what}: {type(error).__name__}: {error}"), idempotent=idempotent or not sent
        )

    async def _exchange(self, request: httpx.Request, *, idempotent: bool) -> Answer:
        """The whole answer, decoded, whatever its status. Raises what httpx raises, and ConnectorError."""
        # Not by the client's `send`: it reads where a redirect leads to, which may be no address at all, and
        # looks for logons and hooks. None is ours, and they are a sixth of a call's CPU.
        response = await self._shared.handle_async_request(request)
        response.request = request
        try:
            if "set-cookie" in response.headers:
                self._client.cookies.extract_cookies(response)
                self.cookies_given += 1
            given = self.cookies_given
            request_id = self._request_id(response.headers)
            if (clock := parse_clock(response.headers.get("date"))) is not None:
                self._clock = (clock, asyncio.get_running_loop().time())
            encoding = response.headers.get("content-encoding", "identity").strip().lower()
            try:
                body = await read_body(response.aiter_raw(), encoding, max_bytes=self._max_body_bytes)
            except BodyRefused as error:
                what = f"the system's answer {error}"
                raise unanswered(what, idempotent=idempotent, request_id=request_id) from error
        finally:
            await response.aclose()
        return Answer(
            status=response.status_code,
            headers=response.headers,
            body=body,
            json=(
                await asyncio.to_thread(parse_body, body, response.headers)
                if len(body) > LARGE_BYTES
                else parse_body(body, response.headers)
            ),
            request_id=request_id,
            cookies_given=given,
        )

    def error(
        self, answer: Answer, call: str, *, idempotent: bool, words: str | None = None
    ) -> ConnectorError:
        """What an answer that is not 2xx means. `call` is its method and path; `words` the system's own,
        where the caller could read them.
        """
        retry_after = parse_retry_after(
            answer.headers.get("retry-after"), answered_at=parse_date(answer.headers.get("date"))
        )
        if retry_after is None and answer.status == 429:
            retry_after = parse_retry_after(answer.headers.get("x-rate-limit-reset"), answered_at=None)
        text = (
            f"the system answered {answer.status} to {call}:"
            f" {self.clean(words) if words else self.text_of(answer)}"
        )
        location = answer.headers.get("location", "")
        if 300 <= answer.status < 400:
            place = self.clean(location.partition("?")[0])[:100] or "nowhere"
            text += f" (a redirect, which is not followed; it leads to {place})"
        return to_error(
            answer.status,
            text,
            idempotent=idempotent,
            retry_after=retry_after,
            request_id=answer.request_id,
            location=location,
        )

    def _refusal(self, answer: Answer, call: str, expects: Expected, *, idempotent: bool) -> ConnectorError:
        """What an answer means that is not what was asked for, with 2xx or not."""
        if not 200 <= answer.status < 300:
            return self.error(answer, call, idempotent=idempotent)
        if answer.is_markup and asks_for_login(answer.body):
            return AuthRefused(
                f"a login page answered {call}: check the address and the credential",
                doubtful=True,
                request_id=answer.request_id,
            )
        if answer.is_markup:
            what = f"a web page instead of data answered {call}: {self.text_of(answer)}"
        else:
            wanted = "multipart" if expects == "multipart" else "JSON"
            given = self.clean(answer.content_type)[:60] or "no content type"
            what = f"the answer to {call} is not {wanted} ({given})"
        return unanswered(what, idempotent=idempotent, request_id=answer.request_id)

    def text_of(self, answer: Answer) -> str:
        """The system's own message, for people: printable, short, without secrets;
        never the body as it came.
        """
        return self.clean(words_of(answer.json, answer.body, answer.headers))

    def clean(self, text: str) -> str:
        """Printable, at most 500 characters, secrets blacked out."""
        for secret in (*self._secrets, *self._tokens):
            text = text.replace(secret, "***")
        return _UNPRINTABLE.sub(" ", text).strip()[:500]

    def _request_id(self, headers: Mapping[str, str]) -> str | None:
        given = headers.keys()  # of httpx's: each look for a single name goes through all of them
        for name in _REQUEST_ID_HEADERS:
            if name in given and (value := self.clean(headers[name])[:128]):
                return value
        return None


def _body(json: object) -> bytes:
    try:
        return orjson.dumps(json)
    except orjson.JSONEncodeError as error:
        raise BadConfiguration(f"a request cannot be written as JSON: {error}") from None


def _certificate_alert(error: BaseException | None) -> str | None:
    """The TLS alert about our certificate that lies behind an error, where one does."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and (found := _CERTIFICATE_REFUSED.search(str(error))) is not None:
            return found[0]
        error = error.__cause__ or error.__context__
    return None
