"""The repository itself: what is written about the code agrees with the code, and the house rules that no
tool knows.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from gateway import metrics
from gateway.model.alert_life import alert_diagram
from gateway.model.connection import diagram
from gateway.settings import ConnectionSettings, MeterSettings, Settings

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for room in ("gateway", "connectors") for path in (ROOT / room).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("mosquitto/*.md")})
MODULE_LINES, FUNCTION_LINES = 520, 65


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MODULE_LINES
    functions = (
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    too_long = [
        f"{node.name}: {length}"
        for node in functions
        if (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    ]
    assert not too_long


def swallows(handler: ast.ExceptHandler) -> bool:
    """Whether it catches everything and goes on; converting or re-raising is no swallowing."""
    caught = (
        {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
        if handler.type
        else {"BaseException"}
    )
    return bool(caught & {"Exception", "BaseException"}) and not isinstance(handler.body[-1], ast.Raise)


def test_only_the_bulkhead_catches_everything() -> None:
    swallowing = {
        relative(path)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler) and swallows(node)
    }
    assert swallowing == {"gateway/bulkhead.py"}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_vague_modules_and_nothing_unfinished(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "common", "manager", "base", "misc"}
    assert not re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", path.read_text())


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, *(ROOT / "benchmarks").rglob("*.py")], ids=relative)
def test_nothing_is_raised_in_a_handler_of_a_group(path: Path) -> None:
    """Python 3.11.2 wraps it in a group, later ones do not: the same fault would end as
    a line or as a trace.
    """
    raised = [
        node.lineno
        for group in ast.walk(ast.parse(path.read_text()))
        if isinstance(group, ast.TryStar)
        for handler in group.handlers
        for node in ast.walk(handler)
        if isinstance(node, ast.Raise)
    ]
    assert not raised


@pytest.mark.parametrize("path", TESTS, ids=relative)
def test_tests_wait_for_conditions(path: Path) -> None:
    """A sleep of a constant half second or more is a wait for a time."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "sleep"
            and node.args
        ):
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, int | float):
                assert argument.value < 0.5, f"line {node.lineno}"


# Documents


def anchors(path: Path) -> set[str]:
    titles = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_paths_that_documents_name_exist(path: Path) -> None:
    for name in re.findall(
        r"`((?:gateway|connectors|tests|config|mosquitto|benchmarks|docs)/[\w./-]+)`", path.read_text()
    ):
        assert (ROOT / name).exists(), name


def test_the_diagram_of_alerts_is_the_table() -> None:
    assert f"```mermaid\n{alert_diagram()}```" in (ROOT / "docs" / "alerts.md").read_text()


def test_the_diagram_is_the_table() -> None:
    assert f"```mermaid\n{diagram()}```" in (ROOT / "docs" / "architecture.md").read_text()


def test_every_decision_is_complete_and_listed() -> None:
    architecture = (ROOT / "docs" / "architecture.md").read_text()
    for path in sorted((ROOT / "docs" / "adr").glob("*.md")):
        text = path.read_text()
        assert all(
            part in text for part in ("**Status:**", "**Context.**", "**Decision.**", "**Consequences.**")
        ), path.name
        assert f"(adr/{path.name})" in architecture


def written(value: object) -> str:
    """A default as the table writes it."""
    match value:
        case None | ():
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case timedelta():
            seconds = value.total_seconds()
            unit, size = next(
                (unit, size)
                for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1), ("ms", 0.001))
                if seconds >= size and seconds % size == 0
            )
            return f"`{seconds / size:g}{unit}`"
        case SecretStr():
            return f"`{value.get_secret_value()}`"
        case _:
            return f"`{value}`"


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        elif name == "sources":
            yield f"{prefix}{name}", "see the sample"
        elif name == "meters":
            yield from leaves(MeterSettings, "meters[].")
        else:
            yield (
                f"{prefix}{name}",
                "required" if field.default is PydanticUndefined else written(field.default),
            )


def test_the_settings_reference_is_complete_and_right() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text[text.index("\n## Settings") : text.index("\n## Backup")]
    models: tuple[type[BaseModel], ...] = (Settings, ConnectionSettings)
    for table, model in zip(section.split("\nA connection, in"), models, strict=True):
        assert dict(re.findall(r"^\| `([\w.\[\]]+)` \| (.+?) \|", table, re.MULTILINE)) == dict(leaves(model))


# Configuration beside the code


def test_every_dependency_is_pinned_with_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [requirement for group in project["optional-dependencies"].values() for requirement in group]
    for file, wanted in {
        "constraints.txt": project["dependencies"] + extras,
        "constraints-daemon.txt": project["dependencies"],
    }.items():
        text = (ROOT / file).read_text()
        assert "://" not in text and "index" not in text, "names, versions and hashes only"
        blocks = re.findall(
            r"^([A-Za-z0-9._-]+)==(\S+)[^\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
            text,
            re.MULTILINE,
        )
        pins = {canonicalize_name(name): version for name, version, _ in blocks}
        assert len(pins) == len(re.findall(r"^\S+==", text, re.MULTILINE))
        for requirement in map(Requirement, wanted):
            assert requirement.specifier.contains(
                pins[canonicalize_name(requirement.name)], prereleases=True
            ), str(requirement)


def metric_names() -> set[str]:
    names: set[str] = set()
    for family in (*metrics.REGISTRY.collect(), *metrics.CONNECTIONS.collect()):
        if family.type == "histogram":
            names |= {f"{family.name}_{suffix}" for suffix in ("bucket", "sum", "count")}
        else:
            names.add(family.name + ("_total" if family.type == "counter" else ""))
    return names


def test_alert_rules_use_metrics_that_exist() -> None:
    rules = (ROOT / "config" / "prometheus" / "rules.yml").read_text()
    used = set(re.findall(r"\bfieldgate_\w+", rules))
    assert used and used <= metric_names()


def test_alert_rules_name_sections_of_the_operations_page() -> None:
    headings = {
        title.lower()
        for title in re.findall(r"^### (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    }
    for group in yaml.safe_load((ROOT / "config" / "prometheus" / "rules.yml").read_text())["groups"]:
        for rule in group["rules"]:
            action = rule.get("annotations", {}).get("action", "")
            if action.startswith("docs/") or ". docs/" in action:
                assert action.rpartition(": ")[2].lower() in headings, rule["alert"]


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool comes with Prometheus: apt-get install prometheus"
)
@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
    ],
)
def test_prometheus_accepts_its_files(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["promtool", *command],
        cwd=ROOT / "config" / "prometheus",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_mounts_and_builds_what_exists() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    secrets = set(compose["secrets"])
    for name, service in compose["services"].items():
        assert set(service.get("secrets", ())) <= secrets, name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./secrets/"):
                continue  # made by the operator, as docs/operations.md says
            assert (ROOT / source).exists() if source.startswith("./") else source in compose["volumes"], (
                volume
            )
    configuration = (ROOT / "config" / "fieldgate.compose.yaml").read_text()
    assert set(re.findall(r"/run/secrets/(\w+)", configuration)) == set(
        compose["services"]["fieldgate"]["secrets"]
    )


def test_the_image_copies_what_exists() -> None:
    ignored = set((ROOT / ".dockerignore").read_text().split())
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, source
