"""Faults of a real proxy (haproxy) before a real server: each becomes exactly its error, and nothing is lost
or delivered twice once it is put right.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from benchmarks.servers import wait_until
from gateway.model.connector import Connector
from gateway.model.errors import (
    AuthRefused,
    ConnectorError,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from gateway.model.outcome import Accepted
from gateway.model.reading import Batch, make_batch
from gateway.model.sample import Value
from tests.contract.harness import CONNECTION, Harness, MaintainXHarness, reading, recent
from tests.contract.http_json_harness import HttpJsonOpaqueHarness
from tests.contract.odata_harness import ODataHarness
from tests.contract.pki import Authority, make_authority
from tests.contract.proxy import PLAIN, Mode, proxy
from tests.contract.sap_harness import EccHarness, S4hanaHarness, need_node
from tests.contract.tryton_harness import TrytonHarness

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATIENT_SECONDS, SHORT_SECONDS = 20.0, 0.8
_HELD_BACK = "tcp-response inspect-delay 60s\n  tcp-response content accept if WAIT_END"
_CLOSED_WHEN_ANSWERED = "tcp-response inspect-delay 60s\n  tcp-response content reject if { res.len gt 0 }"
_CLOSED = "Server disconnected|answered 502 to"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`taken`: the system did the work before the fault. `words`: a pattern of this fault's own. `killed`:
    the proxy dies as soon as the work is done.
    """

    mode: Mode
    error: type[ConnectorError]
    words: str
    taken: bool = False
    killed: bool = False
    timeout_seconds: float = PATIENT_SECONDS


CASES: Mapping[str, Case] = {
    "rate_limited": Case(
        mode=Mode(
            frontend="stick-table type ip size 10 expire 1m store gpc0_rate(1m)\n"
            "  http-request track-sc0 src if delivers\n"
            "  http-request deny deny_status 429 hdr Retry-After 1 if delivers { sc0_gpc0_rate gt 0 }\n"
            "  http-request sc-inc-gpc0(0) if delivers"
        ),
        error=RateLimited,
        words="answered 429",
    ),
    "maintenance": Case(
        mode=Mode(frontend="http-request deny deny_status 503 hdr Retry-After 1 if delivers"),
        error=RateLimited,
        words="answered 503",
    ),
    "no_server": Case(mode=Mode(backend="no_server"), error=Unavailable, words="answered 503 to"),
    # On a connection that has served a call before, haproxy hands a server's closing on without a word.
    "closed_before": Case(
        mode=Mode(backend="relayed", hop="tcp-request content reject"), error=OutcomeUnknown, words=_CLOSED
    ),
    "closed_after": Case(
        mode=Mode(backend="relayed", hop=_CLOSED_WHEN_ANSWERED),
        error=OutcomeUnknown,
        words=_CLOSED,
        taken=True,
    ),
    "bad_gateway": Case(
        mode=Mode(frontend="http-response deny if delivers"),
        error=OutcomeUnknown,
        words="answered 502 to",
        taken=True,
    ),
    "server_too_slow": Case(
        mode=Mode(backend="relayed", hop=_HELD_BACK, relayed="timeout server 300ms"),
        error=OutcomeUnknown,
        words="answered 504 to",
        taken=True,
    ),
    "tarpit": Case(
        mode=Mode(frontend="http-request tarpit if delivers"),
        error=OutcomeUnknown,
        words="Timeout",
        timeout_seconds=SHORT_SECONDS,
    ),
    "answer_held_back": Case(
        mode=Mode(backend="relayed", hop=_HELD_BACK),
        error=OutcomeUnknown,
        words="Timeout",
        taken=True,
        timeout_seconds=SHORT_SECONDS,
    ),
    "killed": Case(
        mode=Mode(backend="relayed", hop=_HELD_BACK),
        error=OutcomeUnknown,
        words="no answer to POST",
        taken=True,
        killed=True,
    ),
    "cut_mid_answer": Case(
        mode=Mode(frontend="http-response set-header Content-Length 100000 if delivers\n  option httpclose"),
        error=OutcomeUnknown,
        words="without sending complete message body",
        taken=True,
    ),
    "redirect": Case(
        mode=Mode(frontend="http-request redirect location /login code 302 if delivers"),
        error=AuthRefused,
        words="302",
    ),
    "unauthorized": Case(
        mode=Mode(frontend="http-request auth realm plant if delivers"), error=AuthRefused, words="401"
    ),
    "forbidden": Case(
        mode=Mode(frontend="http-request deny deny_status 403 if delivers"),
        error=PermissionDenied,
        words="403",
    ),
}
CONNECTORS: tuple[type[Any], ...] = (
    MaintainXHarness,
    S4hanaHarness,
    EccHarness,
    TrytonHarness,
    ODataHarness,
    HttpJsonOpaqueHarness,
)
each_connector = pytest.mark.parametrize("harness", CONNECTORS, indirect=True, ids=lambda kind: kind.system)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """One server for all tests of a connector: each has seconds of its own."""
    if request.param is EccHarness:
        need_node(request)
    started = request.param()
    async with started.running(""):
        yield started


def address_of(harness: Any) -> str:
    """The system's own."""
    server = {"maintainx": "cmms", "tryton": "tryton"}.get(harness.system)
    return str((getattr(harness, server) if server else harness).url)


_seconds = itertools.count(1)


def new_batch(harness: Harness) -> Batch:
    """Later than any before."""
    at = recent(next(_seconds))
    return make_batch(
        CONNECTION, [reading(harness.meter(number), at, float(number + 1)) for number in range(4)]
    )


async def held(harness: Harness, batch: Batch) -> list[list[Value]]:
    """Every value that the system took of each reading."""
    everything = await harness.held()
    return [everything.get((item.meter, item.window_start), []) for item in batch.readings]


def once(batch: Batch) -> list[list[Value]]:
    return [[item.value] for item in batch.readings]


async def fails(pushing: Any, case: Case) -> ConnectorError:
    with pytest.raises(ConnectorError) as caught:
        await pushing
    assert type(caught.value) is case.error, repr(caught.value)
    assert re.search(case.words, str(caught.value)), str(caught.value)
    if isinstance(caught.value, RateLimited):
        assert caught.value.retry_after == 1.0
    return caught.value


async def settle(connector: Connector, batch: Batch) -> None:
    """As the engine does: what is held is not sent again."""
    found = await connector.find(batch.readings)
    rest = make_batch(CONNECTION, [item for item in batch.readings if item.key not in found])
    assert set(map(type, await connector.push(rest))) <= {Accepted}


@each_connector
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_fault_is_exactly_its_error_and_nothing_is_lost_or_doubled(
    harness: Any, case: Case, tmp_path: Path
) -> None:
    async with proxy(tmp_path, address_of(harness), case.mode) as front:
        url = front.url()
        connector = harness.connector(url=url, timeout_seconds=case.timeout_seconds)
        if case is CASES["rate_limited"]:  # what is within the limit goes through
            assert set(map(type, await connector.push(new_batch(harness)))) == {Accepted}
        batch = new_batch(harness)

        async def is_taken() -> bool:
            return await held(harness, batch) == once(batch)

        pushing = asyncio.create_task(connector.push(batch))
        if case.killed:
            await wait_until(is_taken, what="the system did the work", every=0.01)
            await front.end()
        await fails(pushing, case)
        if case.taken:
            await wait_until(is_taken, what="the system did the work")
        assert case.taken or await held(harness, batch) == [[]] * 4
        await front.start(PLAIN)
        if issubclass(
            case.error, OutcomeUnknown
        ):  # as after a restart: Tryton waits while a lost request may be at work
            await connector.close()
            connector = harness.connector(url=url, timeout_seconds=PATIENT_SECONDS)
        await settle(connector, batch)
        assert await is_taken()
        await connector.close()


PROBED: Mapping[str, type[ConnectorError]] = {
    "http-request deny deny_status 503": Unavailable,
    "http-response deny": Unavailable,
    "http-request redirect location /login code 302": AuthRefused,
    "http-request auth realm plant": AuthRefused,
    "http-request deny deny_status 403": PermissionDenied,
    "http-request deny deny_status 429 hdr Retry-After 1": RateLimited,
    "http-request deny deny_status 503 hdr Retry-After 1": RateLimited,
}


@each_connector
async def test_a_probe_meets_the_same_and_is_never_unknown(harness: Any, tmp_path: Path) -> None:
    async with proxy(tmp_path, address_of(harness), PLAIN) as front:
        for lines, error in PROBED.items():
            await front.start(Mode(frontend=lines))
            connector = harness.connector(url=front.url(), timeout_seconds=PATIENT_SECONDS)
            with pytest.raises(ConnectorError) as caught:
                await connector.probe()
            assert type(caught.value) is error, (lines, caught.value)
            await connector.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Of a plant: `listener()` is what a frontend's `bind` needs."""

    folder: Path
    authority: Authority

    def trusted(self) -> Path:
        return self._written("authority", self.authority.pem)

    def required(self) -> str:
        return f"verify required ca-file {self.trusted()}"

    def listener(
        self, issuer: Authority, name: str = "localhost", *, expired: bool = False, asks: str = ""
    ) -> str:
        return f"ssl crt {self._written('server', ''.join(issuer.issue(name, expired=expired)))} {asks}"

    def _written(self, name: str, text: str) -> Path:
        path = self.folder / f"{name}.pem"
        path.write_text(text)
        return path


@pytest.fixture
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    """Their authority is one of this machine's, for this test."""
    made = Certificates(folder=tmp_path, authority=make_authority("Plant CA"))
    monkeypatch.setenv("SSL_CERT_FILE", str(made.trusted()))
    return made


@each_connector
async def test_a_certificate_that_does_not_prove_the_system_is_not_talked_to(
    harness: Any, certificates: Certificates, tmp_path: Path
) -> None:
    batch = new_batch(harness)
    plant = certificates.authority
    refused = {
        "unable to get local issuer certificate": lambda: certificates.listener(make_authority("Other CA")),
        "certificate has expired": lambda: certificates.listener(plant, expired=True),
        "certificate is not valid for 'localhost'": lambda: certificates.listener(
            plant, "elsewhere.example.com"
        ),
    }
    async with proxy(tmp_path, address_of(harness), PLAIN) as front:
        for words, listener in refused.items():
            await front.start(Mode(tls=listener()))
            connector = harness.connector(url=front.url(tls=True), timeout_seconds=PATIENT_SECONDS)
            with pytest.raises(ConnectorError, match=words) as caught:
                await connector.push(batch)
            assert type(caught.value) is Unavailable
            await connector.close()
        assert await held(harness, batch) == [[]] * 4
        await front.start(Mode(tls=certificates.listener(plant)))
        connector = harness.connector(url=front.url(tls=True), timeout_seconds=PATIENT_SECONDS)
        await settle(connector, batch)
        assert await held(harness, batch) == once(batch)
        await connector.close()


@each_connector
async def test_who_has_no_certificate_is_not_let_in(
    harness: Any, certificates: Certificates, tmp_path: Path
) -> None:
    """TLS 1.2 says `handshake failure`, which has other causes too. TLS 1.3 names the cause after the request
    was sent, and the reset may overtake it.
    """
    batch = new_batch(harness)
    kinds = {"TLSv1.2": {Unavailable}, "TLSv1.3": {AuthRefused, Unavailable, OutcomeUnknown}}
    async with proxy(tmp_path, address_of(harness), PLAIN) as front:
        for version, errors in kinds.items():
            await front.start(
                Mode(
                    tls=certificates.listener(
                        certificates.authority,
                        asks=f"{certificates.required()} ssl-min-ver {version} ssl-max-ver {version}",
                    )
                )
            )
            connector = harness.connector(url=front.url(tls=True), timeout_seconds=PATIENT_SECONDS)
            with pytest.raises(ConnectorError) as caught:
                await connector.push(batch)
            assert type(caught.value) in errors
            await connector.close()
    assert await held(harness, batch) == [[]] * 4


async def test_only_the_right_client_certificate_is_let_in(
    certificates: Certificates, tmp_path: Path
) -> None:
    harness, plant = S4hanaHarness(), certificates.authority
    batch = new_batch(harness)
    wrong = {
        "unknown ca": make_authority("Other CA").issue("gateway"),
        "decrypt error": make_authority("Plant CA").issue("gateway"),  # the authority's name with another key
        "certificate expired": plant.issue("gateway", expired=True),
    }
    async with harness.running("", certificates=True), proxy(tmp_path, harness.url, PLAIN) as front:

        def connector(issued: tuple[str, str]) -> Connector:
            credentials = dict(zip(("certificate", "private_key"), issued, strict=True))
            return harness.connector(
                url=front.url(tls=True),
                credentials=credentials,
                ca_file=str(certificates.trusted()),
                timeout_seconds=PATIENT_SECONDS,
            )

        await front.start(
            Mode(tls=certificates.listener(plant, asks=f"{certificates.required()} ssl-max-ver TLSv1.2"))
        )
        for alert, issued in wrong.items():
            refused = connector(issued)
            with pytest.raises(
                AuthRefused, match=f"does not take our client certificate for HEAD .*: alert {alert}"
            ):
                await refused.push(batch)
            await refused.close()
        assert await held(harness, batch) == [[]] * 4
        for version in ("TLSv1.2", "TLSv1.3"):
            await front.start(
                Mode(
                    tls=certificates.listener(
                        plant, asks=f"{certificates.required()} ssl-min-ver {version} ssl-max-ver {version}"
                    )
                )
            )
            good = connector(plant.issue("gateway"))
            await settle(good, batch)
            await good.close()
        assert await held(harness, batch) == once(batch)
