"""What somebody sees who looks at pages, documents and the installation for the first time, where no other test
says it.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.registry import SYSTEMS
from gateway.http.documents import PublicIncident
from gateway.model.access import Role
from gateway.settings import IntegratorSettings
from gateway.store.views import DeadReading, Run
from tests.fixtures.http_fakes import HOUR, NOW, Incidents, Reader, link, world
from tests.unit.test_http_pages import browser, customer

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def read(markup: str) -> str:
    """As somebody reads it."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", markup))


# Pages


async def test_a_run_with_refused_readings_is_not_shown_as_one_that_went_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = Reader.runs

    async def some_refused(self: Reader, *arguments: object, **options: object) -> list[Run]:
        first, second, *_ = await runs(self, *arguments, **options)  # type: ignore[arg-type]
        return [replace(first, rejected=4), second]

    monkeypatch.setattr(Reader, "runs", some_refused)
    async with browser(world()) as (client, _):
        text = (await client.get("/connections/acme-1")).text
    badges = re.findall(r'class="badge (\w+)">(completed[^<]*)<', text)
    assert badges == [("warning", "completed, some refused"), ("completed", "completed")]


async def test_a_refused_reading_is_shown_with_its_value_and_can_be_tried_again_on_the_page() -> None:
    made = world()
    made.reader.letters = [
        DeadReading(
            id=7,
            meter="pump-1 t",
            window_start=NOW - HOUR,
            reason="rejected",
            detail="no",
            occurrences=1,
            first_at=NOW,
            last_at=NOW,
            value=-3.25,
            unit="CEL",
        )
    ]
    async with browser(made, Role.OPERATOR) as (client, csrf):
        text = (await client.get("/connections/acme-1/dead-letters")).text
        assert "-3.25 CEL" in read(text) and 'name="letter.7"' in text
        (address,) = set(re.findall(r'action="([^"]+/replay)"', text))
        await client.post(address, data={"csrf": csrf, "letter.7": "1"})
    assert made.reader.replayed == [("acme-1", [7])]


async def test_incidents_lead_to_a_page_of_their_own() -> None:
    async with browser(world()) as (client, _):
        for path in ("/", "/incidents"):
            assert 'href="/incidents/inc-acme"' in (await client.get(path)).text, path
        assert (await client.get("/incidents/inc-acme")).status_code == 200


async def test_whoever_a_connection_waits_for_is_not_told_that_everything_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def none(self: Incidents, *, days: int) -> list[PublicIncident]:
        return []

    monkeypatch.setattr(Incidents, "public", none)
    made = world()
    async with browser(made) as (client, _):
        text = read((await client.get("/status")).text)
        assert "1 connection needs a person." in text and "Fieldgate itself works." in text
        assert "Everything works" not in text
    async with browser(made, None) as (client, _):
        assert "Everything works." in read((await client.get("/status")).text)


async def test_the_customers_page_says_whose_it_is() -> None:
    made = world()
    services = made.mounted.services
    assert services is not None
    integrator = IntegratorSettings(name="Pumps & Co", contact="help@pumps.example")
    made.mounted.services = replace(services, integrator=integrator)
    made.reauthorizing.links["link-1"] = link()
    async with customer(made) as client:
        text = read((await client.get("/reauthorize/link-1")).text)
        assert "Pumps &amp; Co runs it for acme, and sent you this link." in text
        assert "help@pumps.example" in text
        assert "Pumps &amp; Co" in read((await client.get("/reauthorize/unknown")).text)


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_what_to_do_at_a_system_names_nothing_to_note_that_the_form_has_no_field_for(system: str) -> None:
    """What is to be written down is to be typed; what is no credential is told to whoever sent the link."""
    manifest = SYSTEMS[system].manifest
    schema = str(SYSTEMS[system].credentials_model.model_json_schema()).lower()
    for step in re.findall(r"^\d+\. .*$", manifest.reauthorization, re.MULTILINE):
        noted = re.search(r"(?i)\b(?:note|write down|copy)\b[^.,;]*", step)
        words = set(re.findall(r"[a-z]{3,}", noted[0].lower())) - {"the", "too"} if noted else set()
        assert noted is None or any(word in schema for word in words), step
    assert "nothing is lost" not in manifest.reauthorization.lower()


# Documents: (page, what it has to show, as commands or settings that can be copied)

SHOWN = (
    ("upgrade.md", ("## Going back", "fieldgate migrate", "systemctl")),
    ("connectors/sap_s4hana.md", ("## Setting up", "## When something is wrong")),
    ("high-availability.md", ("## Replicas of the gateway", "## Patroni")),
    ("operations.md", ("pg_dump", "pg_restore", "dropdb")),
    ("proxies.md", ("## nginx", "## haproxy", "proxy_pass", "http.public_url")),
    ("deploy.md", ("fieldgate init", "fieldgate check", "fieldgate doctor", "systemctl enable")),
    (
        "deploy.md",
        ("docker compose up", "fieldgate login", "needs `openssl` and `mosquitto_passwd`", "/connect"),
    ),
    ("deploy.md", ("helm ", "Grafana", "fieldgate completion bash", "Type=notify")),
    ("incidents.md", ("systemic",)),
)


@pytest.mark.parametrize(("page", "parts"), SHOWN, ids=lambda value: value if isinstance(value, str) else "")
def test_a_page_shows_what_somebody_looked_for_in_vain(page: str, parts: tuple[str, ...]) -> None:
    text = (DOCS / page).read_text()
    assert [part for part in parts if part not in text] == []


def test_the_port_is_described_by_all_that_it_serves() -> None:
    (row,) = re.findall(r"^\| `http\.listen` .*$", (DOCS / "operations.md").read_text(), re.MULTILINE)
    assert all(word in row for word in ("API", "pages", "metrics", "ealth"))


# Installing


def made_by(tmp_path: Path, *, terminal: bool) -> str:
    """What pip is called with by `make env`: in place of Python stands a script that says its arguments."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    python.chmod(0o755)
    (tmp_path / "venv" / ".complete").unlink(missing_ok=True)
    (tmp_path / "called").unlink(missing_ok=True)
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            ["make", f"VENV={tmp_path}/venv", f"PYTHON={python}", "env"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]},
            stdout=theirs if terminal else subprocess.PIPE,
            check=False,
            timeout=60,
        )
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 0
    return (tmp_path / "called").read_text()


def test_on_a_terminal_an_installation_shows_that_it_goes_on(tmp_path: Path) -> None:
    """A minute in which nothing moves looks like one that hangs. Logs of a pipeline stay short."""
    assert "--quiet" not in made_by(tmp_path, terminal=True)
    quiet = made_by(tmp_path, terminal=False).splitlines()
    assert len(quiet) == 2 and all("--quiet" in line for line in quiet)


def test_a_virtual_environment_is_moved_to_no_other_place() -> None:
    """Its commands name the interpreter by its path."""
    page = (DOCS / "upgrade.md").read_text()
    made = set(re.findall(r"python3 -m venv (\S+)", page))
    assert {"/opt/fieldgate", "/opt/fieldgate-next"} <= made
    moved = re.findall(r"\bmv (\S+) (\S+)", page)
    assert moved and all(source.startswith("/opt/fieldgate") for source, _ in moved)
    assert not [pair for pair in moved if pair[0] == "/opt/fieldgate-next"]


def test_nginx_takes_what_the_page_says() -> None:
    """`large_client_header_buffers` is of a server, and `http2 on` of versions that few have."""
    [block] = re.findall(r"^```nginx\n(.*?)^```", (DOCS / "proxies.md").read_text(), re.MULTILINE | re.DOTALL)
    assert "large_client_header_buffers" in block and "http2 on" not in block
    assert not re.search(r"location[^{]*\{[^}]*large_client_header_buffers", block)
