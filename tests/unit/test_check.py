"""`fieldgate check` and `fieldgate run` refuse the same configurations, each with file and line."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from benchmarks.servers import wait_until
from connectors.registry import SYSTEMS
from gateway.cli.main import build
from gateway.configuration import Faults, check, load
from gateway.configuration.usable import key_problem
from gateway.model.address import to_listen
from gateway.model.dsn import fault_of
from gateway.model.errors import ConfigError
from gateway.settings import ConnectionSettings, Settings
from gateway.settings_base import NAMES_A_CUSTOMER, Section
from gateway.store.pool import Database
from tests.fixtures import programs

ROOT = Path(__file__).parents[2]
KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
WORD = "s3cr3t"
FAULTY = {
    "no port": ("http", "listen: 0.0.0.0", "http.listen"),
    "no host": ("http", 'listen: ":8080"', "http.listen"),
    "a port too high": ("http", "listen: localhost:99999", "http.listen"),
    "a port alone": ("http", 'listen: "08080"', "http.listen"),
    "no retention": ("telemetry", "retention: 0s", "telemetry.retention"),
    "less than a day": ("telemetry", "retention: 23h", "telemetry.retention"),
    "a buffer below": ("telemetry", "buffer: 10d", "telemetry.buffer"),
    "no lease": ("sync", "lease: 0s", "sync.lease"),
    "no time for a push": ("sync", "push_timeout: 0s", "sync.push_timeout"),
    "no keepalive": ("broker", "keepalive: 0s", "broker.keepalive"),
    "high below low": ("telemetry", "memory_high_bytes: 1048576", "telemetry.memory_low_bytes"),
    "no authority": ("broker", "ca_file: /nowhere/ca.crt", "broker.ca_file"),
    "a directory": ("broker", "ca_file: /tmp", "broker.ca_file"),
    "no PEM": ("broker", "ca_file: {here}/main.yaml", "broker.ca_file"),
    "no certificate": ("broker", "client_certificate: /nowhere/a.pem", "broker.client_certificate"),
    "a certificate that is none": (
        "broker",
        "client_certificate: {here}/main.yaml",
        "broker.client_certificate",
    ),
    "a key without its certificate": ("broker", "client_key: {here}/main.yaml", "broker.client_key"),
    "a short key": ("security", 'encryption_keys: ["${{file:short}}"]', "security.encryption_keys"),
    "a word repeated": ("security", 'encryption_keys: ["${{file:weak}}"]', "security.encryption_keys"),
    "no file of a key": ("security", 'encryption_keys: ["${{file:none}}"]', "security.encryption_keys"),
    "another scheme": ("database", "dsn: mysql://host/db", "database.dsn"),
    "of another driver": ("database", "dsn: jdbc:postgresql://host/db", "database.dsn"),
    "words of libpq": ("database", "dsn: host=db user=u", "database.dsn"),
    "a port that is none": ("database", "dsn: postgresql://host:54x/db", "database.dsn"),
    "an unknown sslmode": ("database", "dsn: postgresql://host/db?sslmode=parse", "database.dsn"),
    "a parameter without value": ("database", "dsn: postgresql://host/db?sslmode", "database.dsn"),
    "no root certificate": (
        "database",
        "dsn: postgresql://host/db?sslmode=verify-full&sslrootcert=/nowhere/root.crt",
        "database.dsn",
    ),
    "a password with #": ("database", 'dsn: "${{env:DSN_HASH}}"', "database.dsn"),
    "a password with /": ("database", 'dsn: "${{env:DSN_SLASH}}"', "database.dsn"),
    "a password with @": ("database", 'dsn: "${{env:DSN_AT}}"', "database.dsn"),
    "a device that none can be": ("connections", "AA:BB:CC", "connections[0].meters[0]"),
    "a device with a blank": ("connections", "pump *", "connections[0].meters[0]"),
}
ENVIRONMENT = {
    "KEY": KEY,
    "SINK": "postgresql://sink:sink@localhost/sink",
    "DSN_HASH": f"postgresql://u:{WORD}#{WORD}@host/db",
    "DSN_SLASH": f"postgresql://u:12/{WORD}@host/db",
    "DSN_AT": f"postgresql://u:{WORD}@{WORD}@host/db",
    "PATH": os.environ["PATH"],
}
CONNECTIONS = """\
connections:
  - id: sink
    customer: acme
    system: postgres
    hosting: on_premises
    credentials: {type: dsn, dsn: "${env:SINK}"}
    meters:
      - {device: "DEVICE", metric: t, meter: "{device}"}
"""


def written(folder: Path, section: str = "", line: str = "", device: str = "pump-*") -> Path:
    sections = {"security": 'encryption_keys: ["${env:KEY}"]'}
    if section and section != "connections":
        sections[section] = line.format(here=folder)
    text = "customers: [acme]\nconnections_file: connections.yaml\n"
    text += "".join(f"{name}:\n  {body}\n" for name, body in sections.items())
    (folder / "main.yaml").write_text(text)
    (folder / "connections.yaml").write_text(CONNECTIONS.replace("DEVICE", device))
    (folder / "short").write_text("short\n")
    (folder / "weak").write_text("password" * 8)
    return folder / "main.yaml"


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_has_its_file_and_line_and_repeats_no_secret(tmp_path: Path, name: str) -> None:
    section, line, path = FAULTY[name]
    main = written(tmp_path, section, line, device=line if section == "connections" else "pump-*")
    with pytest.raises(Faults) as caught:
        load(main, ENVIRONMENT, systems=SYSTEMS)
    found = [str(fault) for fault in caught.value.faults]
    file = "connections.yaml" if section == "connections" else "main.yaml"
    assert any(re.search(rf"{file}:\d+: {re.escape(path)}", text) for text in found), found
    assert WORD not in str(caught.value) and "passwordpass" not in str(caught.value)


async def _ended(main: Path, command: str) -> tuple[int | None, str]:
    """Exit code and what a person reads; None for a daemon that waits for its broker and its database."""
    said = main.parent / f"{command}.said"
    with said.open("wb") as errors, Path(os.devnull).open("wb") as output:
        program = programs.popen(
            [*programs.PROGRAM, command, "--config", str(main)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=ENVIRONMENT,
        )  # fmt: skip

    def is_over() -> bool:
        return program.poll() is not None or "gateway.database_awaited" in said.read_text()

    try:
        await wait_until(is_over, what=f"{command} ends or waits", seconds=60)
        return program.poll(), said.read_text()
    finally:
        program.kill()
        program.wait()


@pytest.mark.parametrize(
    "name", ["no port", "no authority", "a short key", "a password with @", "a device that none can be"]
)
async def test_what_run_refuses_check_refuses_in_the_same_words(tmp_path: Path, name: str) -> None:
    section, line, path = FAULTY[name]
    main = written(tmp_path, section, line, device=line if section == "connections" else "pump-*")
    (checked, faults), (ran, said) = await asyncio.gather(_ended(main, "check"), _ended(main, "run"))
    assert (checked, ran) == (2, 2)
    assert path in faults and path in said and WORD not in faults + said
    assert len(said.splitlines()) == len(faults.splitlines()) - 1, (
        "a line for each fault, and check counts them"
    )


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("database", "dsn: postgresql://nowhere.invalid/db"),
        ("database", "dsn: postgresql://127.0.0.1:1/db?sslmode=disable"),
        ("broker", "url: mqtts://nowhere.invalid"),
    ],
)
async def test_what_may_come_is_waited_for_and_no_fault(tmp_path: Path, section: str, line: str) -> None:
    main = written(tmp_path, section, line)
    main.write_text(main.read_text() + "http:\n  listen: 127.0.0.1:0\n")
    if section == "broker":
        main.write_text(main.read_text() + "database:\n  dsn: postgresql://127.0.0.1:1/db\n")
    (checked, faults), (ran, said) = await asyncio.gather(_ended(main, "check"), _ended(main, "run"))
    assert (checked, ran) == (0, None), faults + said


def test_a_generated_key_is_one(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "gateway", "keys", "generate"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert key_problem(made) is None and len(made) == 44


@given(st.binary(min_size=32, max_size=80).filter(lambda made: len(set(made)) >= 12))
def test_what_is_random_enough_is_a_key_in_either_alphabet(made: bytes) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(made).decode()
        assert key_problem(text) is None and key_problem(text.rstrip("=")) is None


@given(
    st.text(max_size=41)
    | st.just("a" * 64)
    | st.just("correct horse battery staple, and then some more of it")
)
def test_a_text_that_holds_less_than_256_bits_is_no_key(text: str) -> None:
    assert key_problem(text) is not None


def test_an_older_key_may_be_whatever_it_was(tmp_path: Path) -> None:
    """It opens what it sealed; refusing it would lose that."""
    main = written(tmp_path, "security", 'encryption_keys: ["${{env:KEY}}", "${{file:short}}"]')
    assert len(load(main, ENVIRONMENT, systems=SYSTEMS).settings.security.encryption_keys) == 2


PASSWORD = st.text(st.sampled_from("abc#/?[]@:%&= \n\0é"), min_size=1, max_size=12)


@given(PASSWORD, st.sampled_from(["host", "host:5432", "[::1]:5432", "a:1,b:2"]))
def test_no_fault_of_a_dsn_repeats_a_part_of_it(password: str, host: str) -> None:
    dsn = f"postgresql://user-{WORD}:{password}{WORD}@{host}/db-{WORD}"
    assert WORD not in (fault_of(dsn) or "")


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql:///fieldgate",
        "postgresql://u:p%40ss%23@host:5432/db?sslmode=verify-full",
        "postgresql://u@/db?host=/run/postgresql",
        "postgres://u:p@[::1]:5432/db",
        "postgresql://u:p@one:5432,two:5433/db?application_name=x",
    ],
)
def test_a_dsn_that_can_work_is_no_fault(dsn: str) -> None:
    assert fault_of(dsn) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda dsn: dsn.replace("/test_", "/nowhere_test_"), "does not exist"),
        (lambda dsn: f"{dsn}&no_such_parameter=1", "no_such_parameter"),
    ],
)
async def test_what_the_server_refuses_for_good_is_a_fault_of_configuration(
    dsn: str, change: Callable[[str], str], said: str
) -> None:
    with pytest.raises(ConfigError, match=rf"database\.dsn.*{said}"):
        await Database.open(change(dsn), size=1)


@given(st.text(max_size=30))
def test_any_text_is_an_address_to_listen_on_or_says_what_is_expected(text: str) -> None:
    with suppress(ValueError):
        host, port = to_listen(text)
        assert host and 0 <= port < 65536


def test_check_prints_for_programs(tmp_path: Path) -> None:
    main = written(tmp_path, "http", "listen: 0.0.0.0")
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "check", "--json", "--config", str(main)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    [fault] = json.loads(done.stdout)["faults"]
    assert done.returncode == 2 and fault["path"] == "http.listen" and fault["line"] is not None


UNLISTED = {
    "quotas.customers.acmee": "quotas: {customers: {acmee: {devices: 5}}}",
    "egress.customers.acmee": "egress: {customers: {acmee: [10.0.0.0/8]}}",
    "credits.customer_quota.acmee": "credits: {customer_quota: {acmee: 5}}",
    "oidc.customers.Acme Ltd": "oidc: {customer_claim: company, customers: {Acme Ltd: acmee}, issuer:"
    " 'https://id.example.com', client_id: c, roles: {admin: [a]}}\nhttp: {public_url: 'https://here.example'}",
    "telemetry.sources[1].customer": "telemetry: {sources: [{topic: 'a/{device}', customer: acme},"
    " {topic: 'b/{device}', customer: acmee}]}",
}


def checked(main: Path, *options: str) -> Result:
    return CliRunner().invoke(build(["check"]), ["check", "--config", str(main), *options], env=ENVIRONMENT)


@pytest.mark.parametrize("path", UNLISTED)
def test_a_customer_that_is_not_listed_is_a_warning_with_its_line(tmp_path: Path, path: str) -> None:
    """It may move in later (docs/cells.md), so it is no fault."""
    main = written(tmp_path)
    main.write_text(f"{main.read_text()}{UNLISTED[path]}\n")
    done = checked(main)
    assert done.exit_code == 0, done.output
    assert f"warning {main}:5: {path}: 'acmee' is not among `customers`" in done.stderr.replace("\n", " ")
    assert "did you mean 'acme'?" in done.stderr
    [warning] = json.loads(checked(main, "--json").stdout)["warnings"]
    assert (warning["path"], warning["line"]) == (path, 5)


def test_whoever_may_register_is_no_warning(tmp_path: Path) -> None:
    main = written(tmp_path)
    for line in (UNLISTED["quotas.customers.acmee"] + "\ntelemetry: {auto_register_customers: true}", ""):
        main.write_text(f"{main.read_text()}{line}\n")
        assert json.loads(checked(main, "--json").stdout)["warnings"] == []


NO_CUSTOMERS = {
    "Settings.customers": "who is listed",
    "OidcSettings.customer_claim": "the name of a claim",
    "TelemetrySettings.auto_register_customers": "whether they register themselves",
    "MetricsSettings.customers": "how many have series of their own",
    "ExpectedSample.customer": "what `check` compares with",
}


def test_every_setting_about_a_customer_is_of_the_type_that_is_looked_through() -> None:
    found: set[str] = set()

    def look(model: type[Section]) -> None:
        for name, hint in get_type_hints(model, include_extras=True).items():
            place = f"{model.__name__}.{name}"
            marked = any(NAMES_A_CUSTOMER in getattr(part, "__metadata__", ()) for part in parts(hint))
            if name in model.model_fields and "customer" in name and not marked:
                found.add(place)
            for part in parts(hint):
                if isinstance(part, type) and issubclass(part, Section):
                    look(part)

    look(Settings)
    assert found == set(NO_CUSTOMERS)


def parts(hint: Any) -> Iterator[Any]:
    yield hint
    for below in get_args(hint):
        yield from parts(below)


def faults_of_request(**given: Any) -> Faults:
    wanted = {
        "id": "a",
        "customer": "acme",
        "system": "http_json",
        "settings": {"base_url": "https://a.example"},
        "credentials": {"type": "none"},
        **given,
    }
    settings = Settings.model_validate({"customers": ["acme"], "security": {"encryption_keys": ["k"]}})
    with pytest.raises(Faults) as found:
        check(ConnectionSettings.model_validate(wanted), settings=settings, systems=SYSTEMS)
    return found.value


def with_settings(**more: Any) -> dict[str, Any]:
    return {"settings": {"base_url": "https://a.example", **more}}


STREAM = {"path": "/a", "items": "a"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (with_settings(**{f"base_{n}": 1 for n in range(5_000)}), "has 4,900 more faults"),
        (with_settings(streams={f"s{n}": STREAM for n in range(101)}), "at most 100 items"),
        (with_settings(headers={f"x-{n}": "" for n in range(51)}), "at most 50 items"),
        (
            {"meters": [{"device": "d", "metric": "t", "meter": "".join(f"{{{n}}}" for n in range(99))}]},
            "{0}",
        ),
        ({"meters": [{"device": f"d{n}", "metric": "t", "meter": "m"} for n in range(300)]}, "already fed"),
        (
            {
                **with_settings(streams={f"s{n}": STREAM for n in range(5_000)}),
                "sync": {"pull": ["nosuch"] * 9},
            },
            "no stream 'nosuch'",
        ),
    ],
    ids=["keys", "streams", "headers", "placeholders", "conflicts", "pull"],
)
def test_faults_of_one_request_are_bounded(given: dict[str, Any], says: str) -> None:
    """A body of 1 MiB has room for a hundred thousand of them."""
    found = faults_of_request(**given)
    assert says in str(found)
    assert len(found.faults) <= 110 and len(str(found)) < 50_000
