"""README and samples: what a reader copies is valid."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest
import yaml

from connectors.registry import SYSTEMS
from gateway.configuration import Faults, Loaded, load, overrides
from gateway.configuration.customers import unlisted
from gateway.configuration.document import LocatedDocument
from gateway.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


SECRETS = {
    "FIELDGATE_BROKER_PASSWORD": "p",
    "FIELDGATE_DATABASE_DSN": "postgresql://fieldgate@localhost/fieldgate",
    "FIELDGATE_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "ACME_MAINTAINX_KEY": "a",
    "GLOBEX_WAREHOUSE_DSN": "postgresql://globex:globex@localhost/warehouse",
    "ACME_S4_TOKEN_URL": "https://acme.example/token",
    "ACME_S4_CLIENT": "c",
    "ACME_S4_SECRET": "s",
    "GLOBEX_ECC_USER": "u",
    "GLOBEX_ECC_PASSWORD": "p",
    "ACME_TRYTON_KEY": "k",
    "GLOBEX_BC_TOKEN_URL": "https://globex.example/token",
    "GLOBEX_BC_CLIENT": "c",
    "GLOBEX_BC_SECRET": "s",
    "GLOBEX_RECEIVER_SECRET": "s" * 32,
}
CONNECTIONS = (ROOT / "config" / "connections.example.yaml").read_text()


def read(folder: Path, gateway: str, connections: str) -> Loaded:
    """The samples as a user would have them: in one folder, the secrets in the environment or in files."""
    for name in re.findall(r"\$\{file:(/run/secrets/(\w+))\}", gateway):
        text = "postgresql://fieldgate:secret@postgres/fieldgate" if name[1] == "database_dsn" else "secret"
        (folder / name[1]).write_text(SECRETS["FIELDGATE_KEY"] if name[1].endswith("_key") else text)
        gateway = gateway.replace(name[0], str(folder / name[1]))
    # the authority is made with the broker's accounts; any that this machine trusts is one
    gateway = gateway.replace("/run/secrets/broker_authority", certifi.where())
    (folder / "fieldgate.yaml").write_text(gateway)
    (folder / "connections.yaml").write_text(connections)
    environ = {
        name: SECRETS[name]
        for name in re.findall(r"\$\{env:(\w+)\}", gateway + connections)
        if name in SECRETS
    }
    return load(folder / "fieldgate.yaml", environ, systems=SYSTEMS)


def test_the_samples_pass_the_check(tmp_path: Path) -> None:
    gateway = (
        (ROOT / "config" / "fieldgate.yaml").read_text().replace("# connections_file:", "connections_file:")
    )
    loaded = read(tmp_path, gateway, CONNECTIONS)
    assert {connection.settings.system for connection in loaded.connections} == set(SYSTEMS)
    assert all(connection.rules for connection in loaded.connections)


def test_the_examples_of_the_readme_pass_the_check(tmp_path: Path) -> None:
    gateway, connections = blocks("yaml")
    assert len(read(tmp_path, gateway, connections).connections) == 1


def test_the_configuration_of_the_compose_file_passes_the_check(tmp_path: Path) -> None:
    assert (
        read(
            tmp_path, (ROOT / "config" / "fieldgate.compose.yaml").read_text(), "connections: []"
        ).settings.http.listen
        == "0.0.0.0:8080"
    )


def pieces() -> Iterator[tuple[str, dict[str, object]]]:
    """Page and sections of the main file, or a list of sources, as they are shown there."""
    for path in sorted((ROOT / "docs").glob("*.md")):
        for block in re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
            found = yaml.safe_load(block)
            piece = {"telemetry": {"sources": found}} if isinstance(found, list) else found
            is_another_programs = "loadBalancer" in block  # whose section is called `http`, too
            if piece.keys() <= Settings.model_fields.keys() and not is_another_programs:
                yield path.name, piece


@pytest.mark.parametrize(
    ("page", "piece"), list(pieces()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_piece_of_the_configuration_on_a_page_passes_the_check(
    tmp_path: Path, page: str, piece: dict[str, object]
) -> None:
    whole = {"customers": ["acme", "globex"], "security": {"encryption_keys": ["${env:KEY}"]}, **piece}
    text = yaml.safe_dump(whole)
    (tmp_path / "fieldgate.yaml").write_text(text)
    environ = dict.fromkeys(re.findall(r"\$\{env:(\w+)\}", text), SECRETS["FIELDGATE_KEY"])
    loaded = load(tmp_path / "fieldgate.yaml", environ, systems=SYSTEMS)
    assert unlisted(loaded.settings) == [], page


def test_what_pages_set_in_the_environment_leaves_every_command_working() -> None:
    """A name that begins with FIELDGATE_ and is no key of the configuration is a fault of it."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    typed = "\n".join(
        block
        for page in pages
        for block in re.findall(r"^```(?:sh|python)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    )
    named = {*re.findall(r"\bFIELDGATE_[A-Z_]+", typed)}
    assert "FIELDGATE_CONFIG" in named
    assert not overrides.apply(LocatedDocument("a page"), Settings, dict.fromkeys(named, "1"))


def test_a_sample_with_a_fault_does_not_pass(tmp_path: Path) -> None:
    with pytest.raises(Faults, match="max_futur"):
        read(
            tmp_path,
            (ROOT / "config" / "fieldgate.yaml").read_text().replace("max_future", "max_futur"),
            CONNECTIONS,
        )


def test_the_sample_shows_the_defaults(tmp_path: Path) -> None:
    """Except what it says is not: `instance`, the broker's address and user, customers, secrets."""
    sample = read(tmp_path, (ROOT / "config" / "fieldgate.yaml").read_text(), "connections: []").settings
    default = Settings.model_validate({"security": {"encryption_keys": ["k"]}})
    for model in (shown := sample.model_dump(), standard := default.model_dump()):
        for section, keys in {"broker": ("url", "username", "password"), "database": ("dsn",)}.items():
            for key in keys:
                del model[section][key]
        for key in ("instance", "customers", "security"):
            del model[key]
    assert shown == standard


def test_the_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE)) == {"demo", "test"}
    assert {"demo", "test", "check", "bench", "soak", "format", "clean", "env"} <= targets


def test_the_payloads_are_json() -> None:
    payloads = re.findall(r"'(\{.*\})'", "\n".join(blocks("sh")))
    assert len(payloads) == 2
    for payload in payloads:
        json.loads(payload)


def test_explain_says_what_the_readme_shows() -> None:
    """As pasted into a shell in a fresh clone, which has none of the secrets."""
    pasted = re.search(r"^.*fieldgate explain .*$", "\n".join(blocks("sh")), re.MULTILINE)
    assert pasted
    command = pasted[0].replace(".venv/bin/fieldgate", f"{sys.executable} -m gateway")
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr

    def without_times(text: str) -> list[str]:
        return [
            re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?Z", "TIME", line).rstrip()
            for line in text.splitlines()
        ]

    shown = re.search(r"^```\n(topic .*?)^```", README, re.MULTILINE | re.DOTALL)
    assert shown
    assert without_times(done.stdout) == without_times(shown[1])


def test_every_page_is_linked_from_the_readme() -> None:
    pages = [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
    assert len(pages) > 20 and [page for page in pages if f"({page})" not in README] == []


def test_make_says_what_it_offers() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert {"demo", "test", "check", "bench", "soak"} <= {line.split()[0] for line in listed.splitlines()}


def test_shell_scripts_parse() -> None:
    for script in (".ci/run", "mosquitto/provision"):
        subprocess.run(["bash", "-n", script], cwd=ROOT, check=True, timeout=30)


UNWANTED = (
    "there is no such thing",
    "this is for good",
    "the system is being asked",
    "a person has to give",
    "asked by {",
    "a part of fieldgate is away",
    "is still none",
    "events are not told",
    "by halves",
    "books balance",
    "books agree",
    "books of the credits",
    ">well<",
    "asked by cli",
    'not well"',
    "disconnected for good",
    "for good?",
    "disconnected, for good",
    "token login",
)
"""Each was read by somebody who could not tell what it meant."""

READ = [
    path
    for root, patterns in (
        ("gateway", ("*.py", "*.html", "*.js", "*.sql", "*.yaml", "env")),
        ("connectors", ("*.py", "*.toml", "*.md")),
        ("docs", ("*.md", "*.json", "*.yaml")),
        ("config", ("*",)),
        ("deploy", ("*",)),
        ("mosquitto", ("*",)),
        ("website", ("*.md", "*.yml")),
    )
    for pattern in patterns
    for path in sorted((ROOT / root).rglob(pattern))
    if path.is_file() and "adr" not in path.parts
] + [ROOT / "README.md"]

WANTED = {
    "gateway/http/dashboard/templates/status.html": ("OK", "unavailable", "Part of Fieldgate is unavailable"),
    "gateway/http/dashboard/templates/problem.html": ("Page not found",),
    "gateway/http/dashboard/templates/disconnect.html": ("This cannot be undone",),
    "gateway/http/dashboard/connection.py": ("Checking the connection",),
    "gateway/connections/refusals.py": ("new credentials are required",),
    "gateway/connections/transitions.py": ("from the command line",),
    "gateway/cli/credits.py": ("counters reconcile",),
    "docs/operations.md": ("Events are not being delivered",),
    "docs/connectors/http_json.md": ("bisection",),
}
"""What is said in their place, where it is said."""


def test_what_people_read_is_said_in_words_that_say_it() -> None:
    found = [
        (str(path.relative_to(ROOT)), words)
        for path in READ
        for words in UNWANTED
        if words in path.read_text(errors="replace").lower()
    ]
    assert found == []


def test_what_is_said_in_place_of_unclear_words_is_said() -> None:
    assert {
        (name, words)
        for name, several in WANTED.items()
        for words in several
        if words not in (ROOT / name).read_text()
    } == set()


def test_what_cannot_be_undone_is_called_so_on_pages() -> None:
    """ "For good" was read as "for a good purpose"."""
    templates = sorted((ROOT / "gateway" / "http" / "dashboard" / "templates").glob("*.html"))
    assert templates and [path.name for path in templates if "for good" in path.read_text()] == []
