"""What is announced is done by somebody: the catalogue, the types of events, the tables of the documents, the
routes, the metrics and the settings, each held against who emits, calls, serves or reads it.

Used is what the code names outside of where it is announced; a name in its own declaration, in the catalogue
or in a generated reference is no use of it.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.main import get_command

from connectors.registry import SYSTEMS
from gateway import metrics
from gateway.cli.main import build
from gateway.http.problem import CODES
from gateway.model import connector, exchange, inbound
from gateway.model.command import Verb
from gateway.model.connector import Capabilities, Manifest
from gateway.model.event import EventType
from gateway.model.inbound import InboundStream
from gateway.settings import ConnectionSyncSettings, Settings
from tools.asyncapi import TOLD

ROOT = Path(__file__).parents[2]
GATEWAY = sorted((ROOT / "gateway").rglob("*.py"))
"""Without `connectors`: who announces is one of them."""

SHOWN_ONLY = {
    ROOT / "gateway" / name
    for name in (
        "http/api/systems.py",
        "http/documents.py",
        "connections/guard.py",
        "connections/storable.py",
        "model/connector.py",
        "model/exchange.py",
        "model/inbound.py",
    )
}
"""They declare, show or pass on."""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def named(path: Path) -> set[tuple[str, str]]:
    """`(owner, name)` of every attribute that is read; the owner is what stands before the dot."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            before = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
            found.add((before, node.attr))
    return found


def names(paths: Iterator[Path]) -> set[str]:
    """Of the attributes alone."""
    return {name for path in paths for _, name in named(path)}


@cache
def used() -> set[str]:
    """Names of attributes that the gateway reads or calls where it does something with them."""
    return names(path for path in GATEWAY if path not in SHOWN_ONLY)


@cache
def texts(path: Path) -> list[str]:
    return [
        node.value
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


# Members of closed sets: events, triggers, states, reasons, issues, verbs


def enums() -> list[tuple[Path, type[enum.Enum]]]:
    found = []
    for path in GATEWAY:
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and any("Enum" in ast.unparse(base) for base in node.bases):
                module = importlib.import_module(
                    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
                )
                found.append((path, getattr(module, node.name)))
    return found


def aliases(path: Path, name: str) -> set[str]:
    """What a module calls the class: `S, T, E = State, Trigger, EventType`."""
    found = {name}
    for node in tree(path).body:
        if isinstance(node, ast.Assign):
            pairs = zip(
                getattr(node.targets[0], "elts", node.targets),
                getattr(node.value, "elts", [node.value]),
                strict=False,
            )
            found |= {
                target.id
                for target, value in pairs
                if isinstance(target, ast.Name) and isinstance(value, ast.Name) and value.id == name
            }
    return found


@pytest.mark.parametrize("kind", [kind for _, kind in enums()], ids=lambda kind: kind.__name__)
def test_every_member_of_a_closed_set_is_used(kind: type[enum.Enum]) -> None:
    """By name somewhere, or by its value where it comes from outside or out of the database. What a person gives
    on the command line is read as it is.
    """
    if kind.__module__.startswith("gateway.cli."):
        return
    by_name = {
        name
        for path in GATEWAY
        for owner, name in named(path)
        if owner in aliases(path, kind.__name__) | {"cls"}
    }
    assert not [
        member.name for member in kind if member.name not in by_name and member.value not in elsewhere(kind)
    ]


SQL = sorted((ROOT / "gateway" / "store" / "sql").glob("*.sql"))


TEMPLATES = sorted((ROOT / "gateway" / "http").rglob("*.html"))


@cache
def statements() -> str:
    return "\n".join(path.read_text() for path in SQL)


@cache
def elsewhere(kind: type[enum.Enum]) -> set[object]:
    """Texts of the other modules and of the statements."""
    home = Path(inspect.getfile(kind))
    sql = set(re.findall(r"'([\w.]+)'", statements()))
    return {text for path in GATEWAY if path != home for text in texts(path)} | sql


def test_every_type_of_event_is_emitted_and_told() -> None:
    """In a row of a table whose trigger somebody fires, or where a NewEvent is made."""
    home = ROOT / "gateway" / "model" / "event.py"
    emitted = {
        name
        for path in GATEWAY
        if path != home
        for owner, name in named(path)
        if owner in aliases(path, "EventType")
    }
    emitted |= {kind.name for kind in EventType if f"select '{kind}'" in statements()}
    assert {kind.name for kind in EventType} == emitted
    section = (ROOT / "docs" / "events.md").read_text().split("## Types")[1].split("\n## ")[0]
    listed: set[str] = set()
    for cell in re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE):
        names = re.findall(r"`([a-z_.]+)`", cell)
        room = names[0].partition(".")[0]
        listed |= {f"{room}{name}" if name.startswith(".") else name for name in names}
    assert listed == {str(kind) for kind in EventType}


# The catalogue


@pytest.mark.parametrize("module", [connector, exchange, inbound], ids=lambda module: module.__name__)
def test_every_method_of_the_contract_is_called(module: Any) -> None:
    """By the engine, not only by the guard that passes calls on."""
    methods = {
        name
        for kind in vars(module).values()
        if inspect.isclass(kind)
        and getattr(kind, "_is_protocol", False)
        and kind.__module__ == module.__name__
        for name, member in vars(kind).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    }
    assert methods and not methods - used()


@pytest.mark.parametrize(
    "kind",
    [
        Capabilities,
        Manifest,
        InboundStream,
        inbound.InboundRecord,
        inbound.InboundPage,
        inbound.KeyPage,
        connector.ProbeResult,
    ],
    ids=lambda kind: kind.__name__,
)
def test_every_fact_of_the_contract_is_looked_at(kind: Any) -> None:
    """What a connector says of itself, or answers, and nobody reads is said for nothing."""
    assert not {field.name for field in dataclasses.fields(kind)} - used() - FOR_PEOPLE.get(kind, set())


FOR_PEOPLE: dict[Any, set[str]] = {
    # `raises` says which, and is what rules are checked by; `dedup` is read through `delivery`; a connector
    # keeps to the other two itself
    Capabilities: {"can_raise_event", "dedup", "max_bytes", "future_skew"},
    InboundStream: {"example", "key"},
}
"""Only shown, in `GET /v1/systems` and the reference."""


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_a_system_does_what_its_manifest_says_and_says_what_it_does(system: str) -> None:
    manifest = SYSTEMS[system].manifest
    module = importlib.import_module(f"connectors.{system}.connector")
    (made,) = [
        kind
        for kind in vars(module).values()
        if inspect.isclass(kind) and kind.__module__ == module.__name__ and hasattr(kind, "push")
    ]
    settings = SYSTEMS[system].settings_model.model_fields
    streams = {stream.name: stream for stream in manifest.streams}
    reads = bool(streams) or "streams" in settings
    assert hasattr(made, "pull") == hasattr(made, "remote_now") == hasattr(made, "inbound") == reads
    able = manifest.capabilities
    assert able.can_raise_event == bool(manifest.raises) == hasattr(made, "raise_event")
    assert {stream for stream in manifest.raises.values() if stream} <= streams.keys()
    assert not able.can_create_meter or hasattr(made, "ensure_meter")
    assert hasattr(made, "pull_open") or not any(stream.lists_open for stream in streams.values())
    assert hasattr(made, "keys") or not any(stream.deletions == "keys" for stream in streams.values())
    page = (ROOT / "docs" / "connectors" / f"{system}.md").read_text()
    for name in (*streams, *manifest.raises):
        assert re.search(rf"`[^`]*\b{name}\b[^`]*`", page), f"{name} is not on the page of {system}"
    for name in (field.alias or name for name, field in settings.items()):
        assert re.search(rf"\b{name}\b", page), f"the setting {name} is not on the page of {system}"


# What is shown and told


@pytest.mark.parametrize("path", [ROOT / "gateway" / "metrics.py"], ids=["metrics"])
def test_every_metric_is_set_by_somebody(path: Path) -> None:
    declared = {
        name
        for name, value in vars(metrics).items()
        if hasattr(value, "labels")
        or type(value).__name__ in ("Gauge", "Counter", "Histogram", "BulkHistogram")
    } - {"Counter", "Gauge", "Histogram", "BulkHistogram"}
    set_by = names(each for each in GATEWAY if each != path)
    assert declared and not declared - set_by


def test_every_code_of_a_refusal_is_raised() -> None:
    home = ROOT / "gateway" / "http" / "problem.py"
    raised = {text for path in GATEWAY if path != home for text in texts(path)}
    inside = texts(home)
    assert not {code for code in CODES if code not in raised and inside.count(code) < 2}


def test_every_verb_is_handled_and_documented() -> None:
    section = (ROOT / "docs" / "commands.md").read_text().split("## Over MQTT")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == {str(verb) for verb in Verb}
    handled = {name for owner, name in named(ROOT / "gateway" / "events" / "commands.py") if owner == "Verb"}
    assert handled == {verb.name for verb in Verb}


def commands(group: Any, before: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}"


def test_every_command_is_documented_and_every_documented_one_is_there() -> None:
    known = set(commands(get_command(build([]))))
    section = (ROOT / "docs" / "commands.md").read_text().split("## On the command line")[1]
    cells = "\n".join(re.findall(r"^\| (`.+?`.*?) \|", section, re.MULTILINE))
    said, everywhere = set(re.findall(r"[a-z-]+", cells)), documents()
    assert not {
        name for name in known if not set(name.split()) <= said and f"fieldgate {name}" not in everywhere
    }
    groups = {name.split()[0] for name in known}
    called = set(re.findall(r"`fieldgate ([a-z-]+)", everywhere)) | set(
        re.findall(r"^fieldgate ([a-z-]+)", everywhere, re.MULTILINE)
    )
    assert called and not called - groups


def documents() -> str:
    return "\n".join(path.read_text() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_metrics_that_documents_name_exist() -> None:
    names = set()
    for family in (*metrics.REGISTRY.collect(), *metrics.CONNECTIONS.collect()):
        names |= {
            family.name,
            f"{family.name}_total",
            *(f"{family.name}_{suffix}" for suffix in ("bucket", "sum", "count")),
        }
    said = set(re.findall(r"`(fieldgate_[a-z_]*[a-z])[`{]", documents()))
    assert said and not said - names - {"fieldgate_reading"}, "that one is a table"


def test_routes_that_documents_name_exist() -> None:
    paths = {
        re.sub(r"\{[^}]+\}", "{}", path)
        for path in re.findall(r'"(/v1/[^"]*)":', (ROOT / "docs" / "reference" / "openapi.json").read_text())
    }
    said = {
        re.sub(r"\{[^}]+\}|\b(?:acme|plant|ID|NAME)[\w-]*", "{}", path.rstrip("/.,"))
        for path in re.findall(r"(?:GET|POST|PUT|PATCH|DELETE) (/v1/[\w/{}.-]+)", documents())
    }
    assert said and not said - paths


def test_every_topic_is_in_a_table_or_a_section() -> None:
    """What is told on MQTT, by the address of the interface document."""
    section = (ROOT / "docs" / "events.md").read_text().split("## Retained documents")[1]
    retained = {told.address for told in TOLD if told.retain}
    records = "customers/{customer}/connections/{connection}/records/{stream}/{key}"
    assert set(re.findall(r"^\| `\{root\}/([\w/{}]+)` \|", section, re.MULTILINE)) == {*retained, records}
    assert not [told.address for told in TOLD if told.address not in documents()]


def leaves(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            yield from leaves(kind)
        else:
            yield model.__name__, name


def test_every_setting_is_read() -> None:
    homes = {
        path
        for path in GATEWAY
        if path.name in ("settings.py", "settings_base.py", "source_settings.py", "meter_settings.py")
    }
    read = names(path for path in GATEWAY if path not in homes)
    own = {name for home in homes for owner, name in named(home) if owner != "Field"}
    shown = set(re.findall(r"\w+", "\n".join(path.read_text() for path in TEMPLATES)))
    assert not {name for _, name in leaves(Settings)} - read - own - shown


DOTTED = re.compile(r"`([a-z]+)\.([a-z_]+)`")
"""A setting, an event, a code or a line of the log, as pages and messages name them."""


def named_settings() -> set[str]:
    """`section.key`, of the gateway and of a connection."""
    found = {
        f"{section}.{name}"
        for section, field in Settings.model_fields.items()
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel)
        for name in field.annotation.model_fields
    }
    return found | {f"sync.{name}" for name in ConnectionSyncSettings.model_fields}


def test_settings_events_and_codes_that_pages_and_messages_name_exist() -> None:
    known = named_settings() | {str(kind) for kind in EventType} | set(CODES)
    rooms = {name.partition(".")[0] for name in known} - {"gateway"}  # which modules have as well
    known |= {text for path in GATEWAY for text in texts(path)}  # lines of the log, and spans
    said: dict[str, set[str]] = {str(path.relative_to(ROOT)): {path.read_text()} for path in TEMPLATES}
    pages = [ROOT / "README.md", *(path for path in ROOT.glob("docs/**/*.md") if "adr" not in path.parts)]
    said |= {str(path.relative_to(ROOT)): {path.read_text()} for path in pages}
    said |= {str(path.relative_to(ROOT)): set(texts(path)) for path in GATEWAY}
    wrong = {
        (where, f"{room}.{name}")
        for where, several in said.items()
        for text in several
        for room, name in DOTTED.findall(text)
        if room in rooms and f"{room}.{name}" not in known and name not in ENDINGS
    }
    assert wrong == set()


ENDINGS = {"py", "md", "yaml", "pem", "toml", "sql", "json", "yml", "html"}
