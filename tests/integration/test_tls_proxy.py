"""The proxy in front that docs/proxies.md describes, by the program itself: haproxy with TLS before a real server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
import yaml
from structlog.testing import capture_logs

from benchmarks.servers import accepts, end, free_port, patient, wait_until
from gateway.settings import HttpSettings
from tests.contract.pki import make_authority
from tests.fixtures.http_fakes import Well, serving, world

PAGE = (Path(__file__).parents[2] / "docs" / "proxies.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@dataclass(frozen=True)
class Front:
    """`client` comes by the proxy, from an address that is no proxy's; `log` is the proxy's."""

    client: httpx.AsyncClient
    log: Path


@asynccontextmanager
async def in_front(folder: Path, backend: int) -> AsyncIterator[Front]:
    (folder / "gateway.pem").write_text("".join(make_authority("test").issue("gateway.example.com")))
    secure, plain, log = free_port(), free_port(), folder / "haproxy.log"
    text = block("haproxy")
    for written, here in {
        "bind :443 ssl crt /etc/haproxy/gateway.pem": f"bind 127.0.0.1:{secure} ssl crt {folder}/gateway.pem",
        "bind :80": f"bind 127.0.0.1:{plain}",
        "127.0.0.1:8080 check": f"127.0.0.1:{backend} check inter 1s",
    }.items():
        assert written in text
        text = text.replace(written, here)
    (folder / "haproxy.cfg").write_text(text)
    binary = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    assert binary is not None, "haproxy is not installed: `make packages` says how to get it"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [binary, "-db", "-f", str(folder / "haproxy.cfg")], stdout=output, stderr=output
        )
    try:
        await wait_until(lambda: process.poll() is not None or accepts(secure), what="haproxy accepts")
        assert process.poll() is None, log.read_text()
        async with httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{secure}",
            headers={"Host": "gateway.example.com", "Accept": "text/html"},
            transport=httpx.AsyncHTTPTransport(verify=False, local_address="127.0.0.2"),
            timeout=60,
        ) as client:
            yield Front(client=client, log=log)
    finally:
        await end(process, signal.SIGKILL)


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    settings = HttpSettings.model_validate(yaml.safe_load(block("yaml"))["http"])
    made = world()
    assert made.mounted.services is not None
    services = replace(made.mounted.services, public_url=settings.public_url)
    async with (
        serving(Well(), settings, services=services, seconds=60) as direct,
        in_front(tmp_path, direct.base_url.port or 0) as found,
    ):
        yield found


async def test_people_log_in_by_the_proxy_and_pages_are_told_of_changes(front: Front) -> None:
    origin = {"Origin": "https://gateway.example.com", "Sec-Fetch-Site": "same-origin"}
    entered = await front.client.post("/login", data={"token": "admin"}, headers=origin)
    assert entered.status_code == 303, entered.text
    assert entered.headers["strict-transport-security"]
    name, _, value = entered.headers["set-cookie"].partition(";")[0].partition("=")
    assert name == "__Host-fieldgate_session"
    cookie = {"Cookie": f"{name}={value}"}
    page = await front.client.get("/", headers=cookie)
    assert page.status_code == 200, page.text
    async with front.client.stream("GET", "/live", headers=cookie) as live:
        assert live.status_code == 200
        lines = live.aiter_lines()
        async with patient(30):
            assert [await anext(lines) for _ in range(3)] == ["retry: 1000", "", "event: beat"]
    assert "is DOWN" not in front.log.read_text(), "the proxy's own checks pass meanwhile"


async def test_who_fails_is_named_by_its_own_address_and_not_by_what_it_writes(front: Front) -> None:
    with capture_logs() as said:
        for written in ({}, {"X-Forwarded-For": "203.0.113.9"}):
            refused = await front.client.post("/login", data={"token": "nonsense"}, headers=written)
            assert refused.status_code == 401
    assert [one["address"] for one in said if one["event"] == "http.access_refused"] == ["127.0.0.2"]


async def test_the_proxy_keeps_what_is_for_the_machine_and_logs_no_secret(front: Front) -> None:
    for path in ("/metrics", "/healthz", "/readyz"):
        assert (await front.client.get(path)).status_code == 404
    for path in ("/login/s3cret-1", "/reauthorize/s3cret-2", "/connect/link/s3cret-3", "/status?x=s3cret-4"):
        await front.client.get(path)
    assert (await front.client.get("/", headers={"Host": "evil.example"})).status_code == 421

    def logged() -> bool:
        return "/status" in front.log.read_text() and "/connect/link/..." in front.log.read_text()

    await wait_until(logged, what="the proxy has logged them")
    assert "s3cret" not in front.log.read_text()


def test_what_the_routes_of_traefik_name_its_own_configuration_has() -> None:
    own, routes = (
        yaml.safe_load(found)
        for found in re.findall(
            r"^```yaml\n(.*?)^```", PAGE.partition("## Traefik")[2], re.MULTILINE | re.DOTALL
        )
    )
    router = routes["http"]["routers"]["fieldgate"]
    assert {*router["entryPoints"]} <= own["entryPoints"].keys()
    assert own["entryPoints"]["web"]["http"]["redirections"]["entryPoint"]["to"] in router["entryPoints"]
    assert router["tls"]["certResolver"] in own["certificatesResolvers"]
    assert f"`{own['providers']['file']['filename']}`" in PAGE
    assert {"RequestPath", "RequestLine"} <= own["accessLog"]["fields"]["names"].keys()
