"""The repository itself: what is written about the code agrees with the code, and the house rules that no
tool knows.
"""

from __future__ import annotations

import ast
import io
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from gateway import metrics
from gateway.meter_settings import MeterSettings
from gateway.settings import ConnectionSettings, Settings
from tools.diagrams import alert_diagram, connection_diagram

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for room in ("gateway", "connectors") for path in (ROOT / room).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BROKERS_TIMES = {ROOT / "tests" / "interop" / name for name in ("suite.py", "through.py")}
"""They look at what a broker does in time (an expiry, say), where there is no condition to wait for."""
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("mosquitto/*.md")})
MODULE_LINES, FUNCTION_LINES = 300, 50
"""Lines of code: what explains it does not count."""

CODE_LINES = 59_339
"""Of gateway and connectors together. Whoever raises it says in the changelog, under "Size", what for."""


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


# Every file is looked at by one test of each rule, and read and parsed once for all of them: a test of each rule and file
# would be thousands, which cost more to collect, in each worker, than all of them look at.


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(parsed(path)))


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """The trees go with the last test: what is kept is looked through by each collection of garbage after it."""
    yield
    for kept in (parsed, nodes, code_lines):
        kept.cache_clear()


@cache
def code_lines(path: Path) -> frozenset[int]:
    """Without blank lines, comments and docstrings."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type not in silent and token.string:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in nodes(path):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return frozenset(lines)


def test_modules_and_functions_stay_small() -> None:
    too_long = []
    for path in SOURCES:
        name, lines = relative(path), code_lines(path)
        if len(lines) > MODULE_LINES:
            too_long.append(f"{name}: {len(lines)}")
        too_long += [
            f"{name}:{node.name}: {length}"
            for node in nodes(path)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (length := len(lines & {*range(node.lineno, (node.end_lineno or 0) + 1)})) > FUNCTION_LINES
        ]
    assert too_long == []


def test_the_code_does_not_grow_unnoticed() -> None:
    assert sum(len(code_lines(path)) for path in SOURCES) <= CODE_LINES
    _, _, told = (ROOT / "CHANGELOG.md").read_text().partition("### Size\n")
    numbers = re.findall(r"\d+,\d{3}", told.partition("\n#")[0])
    assert not numbers or numbers[0] == f"{CODE_LINES:,}", "the newest line comes first"


def test_a_class_name_stands_for_one_thing() -> None:
    where: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name, []).append(f"{relative(path)}:{node.lineno}")
    assert not {name: places for name, places in where.items() if len(places) > 1}


BOUNDS = re.compile(r"_?(MOST|FEWEST|LEAST|LONGEST|SHORTEST|LARGEST|SMALLEST|HIGHEST|LOWEST|DEEPEST)(_|$)")


def test_bounds_are_called_max_and_min() -> None:
    names = {
        (relative(path), name.id)
        for path in SOURCES
        for node in parsed(path).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    }
    assert not {(path, name) for path, name in names if BOUNDS.match(name)}


NO_DATES = {"granted_at"}
"""Epoch seconds: drafts that are stored have it under this name."""


def test_what_ends_in_at_is_no_reading_of_a_monotonic_clock() -> None:
    """Those end in `_monotonic`: nobody may compare them with a date, or store them."""
    for path, node in [(source, node) for source in SOURCES for node in nodes(source)]:
        named: list[tuple[ast.expr | str, ast.expr | None]] = []
        match node:
            case ast.Assign():
                named = [(target, node.value) for target in node.targets]
            case ast.AnnAssign():
                named = [(node.target, node.value), (node.target, node.annotation)]
            case ast.arg():
                named = [(node.arg, node.annotation)]
            case _:
                pass
        for target, value in named:
            name = getattr(target, "id", None) or getattr(target, "attr", None) or target
            if isinstance(name, str) and name.endswith("_at") and value is not None and name not in NO_DATES:
                assert not re.search(r"monotonic\(\)|\bfloat\b", ast.unparse(value)), (
                    f"{name}, {relative(path)}:{value.lineno}"
                )


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
        for node in nodes(path)
        if isinstance(node, ast.ExceptHandler) and swallows(node)
    }
    assert swallowing == {"gateway/bulkhead.py"}


def test_no_vague_modules_and_nothing_unfinished() -> None:
    vague = {"utils", "util", "helpers", "common", "manager", "base", "misc"}
    unfinished = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    assert not [path for path in SOURCES if path.stem in vague or unfinished.search(path.read_text())]


def test_nothing_is_raised_in_a_handler_of_a_group() -> None:
    """Python 3.11.2 wraps it in a group, later ones do not: the same fault would end as
    a line or as a trace.
    """
    raised = [
        f"{relative(path)}:{node.lineno}"
        for path in (*SOURCES, *TESTS, *(ROOT / "benchmarks").rglob("*.py"))
        if "except*" in path.read_text()
        for group in nodes(path)
        if isinstance(group, ast.TryStar)
        for handler in group.handlers
        for node in ast.walk(handler)
        if isinstance(node, ast.Raise)
    ]
    assert not raised


def constant(node: ast.expr | None) -> float:
    """A number that stands there; 0 where it is none."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, int | float) else 0


def calls(path: Path, *names: str) -> Iterator[ast.Call]:
    if any(f"{name}(" in path.read_text() for name in names):
        for node in nodes(path):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
                yield node


def test_tests_wait_for_conditions() -> None:
    """A sleep of a constant half second or more is a wait for a time."""
    assert not [
        f"{relative(path)}:{call.lineno}"
        for path in TESTS
        if path not in BROKERS_TIMES
        for call in calls(path, "asyncio.sleep", "time.sleep", "anyio.sleep")
        if constant(next(iter(call.args), None)) >= 0.5
    ]


def test_tests_are_patient() -> None:
    """A deadline of a constant second or more is one for a machine that is idle: `wait_until`, `patient` and
    PATIENCE make it one for any.
    """
    assert not [
        f"{relative(path)}:{call.lineno}"
        for path in TESTS
        if path.parts[-2] not in ("soak", "interop")
        for call in calls(path, "asyncio.timeout", "asyncio.wait_for")
        if max(map(constant, (*call.args, *(keyword.value for keyword in call.keywords))), default=0) >= 1
    ]


# Documents


@cache
def anchors(path: Path) -> set[str]:
    titles = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def leads_nowhere(path: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    file = (path.parent / name).resolve() if name else path
    return not file.exists() or bool(anchor and anchor not in anchors(file))


def test_links_lead_somewhere() -> None:
    assert not [
        (relative(path), target)
        for path in DOCUMENTS
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text())
        if not target.startswith(("http://", "https://", "mailto:")) and leads_nowhere(path, target)
    ]


def test_paths_that_documents_name_exist() -> None:
    named = re.compile(r"`((?:gateway|connectors|tests|config|mosquitto|benchmarks|docs)/[\w./-]+)`")
    assert not [
        (relative(path), name)
        for path in DOCUMENTS
        for name in named.findall(path.read_text())
        if not (ROOT / name).exists()
    ]


def test_every_room_is_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text[text.index("| room | owns |") : text.index("**Where would I change")]
    told = {
        name
        for cell in re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\S+?)`", cell)
    }
    rooms = {
        f"gateway.{path.stem}"
        for path in (ROOT / "gateway").iterdir()
        if (path.suffix == ".py" and not path.stem.startswith("__")) or (path / "__init__.py").exists()
    }
    assert told == rooms | {"connectors.kit", "connectors.<system>"}


def test_the_diagram_of_alerts_is_the_table() -> None:
    assert f"```mermaid\n{alert_diagram()}```" in (ROOT / "docs" / "alerts.md").read_text()


def test_the_diagram_is_the_table() -> None:
    assert f"```mermaid\n{connection_diagram()}```" in (ROOT / "docs" / "architecture.md").read_text()


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
                f"{prefix}{field.alias or name}",
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


NEVER_IMPORTED = {"h11", "httptools", "tzdata"}
"""httpx and uvicorn use them, and zoneinfo: the versions are ours to choose."""


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["embedded"]]
    declared = {canonicalize_name(Requirement(one).name) for one in wanted}
    imported: set[str] = set()
    for path in SOURCES:
        for node in nodes(path):
            match node:
                case ast.Import(names=names):
                    imported |= {name.name.partition(".")[0] for name in names}
                case ast.ImportFrom(module=str(module)):
                    imported.add(module.partition(".")[0])
                case _:
                    pass
    imported -= {*sys.stdlib_module_names, "gateway", "connectors", "benchmarks"}
    installed = packages_distributions()
    owners = {name: {canonicalize_name(owner) for owner in installed.get(name, ())} for name in imported}
    owners["pydantic_core"] = {"pydantic"}  # each version of it belongs to one of pydantic
    assert not {name for name, found in owners.items() if not found & declared}
    assert declared - set().union(*owners.values()) == NEVER_IMPORTED


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
        ("check", "config", "local.yml"),
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


BY_PLACE = {
    "batch_record": "a window that changed meanwhile has another mark, and stays",
    "due_remove": "a window that changed meanwhile has another mark, and stays",
    "doubt_remove": "what came into doubt anew has another mark, and stays",
    "mapping_remove": "the streams are taken whole before: nobody changes windows",
    "outbox_remove": "what is missed is removed the next time",
    "device_fall_silent": "a device that was written meanwhile stays due",
    "device_return": "a device that was written meanwhile stays due",
    "device_told": "what has changed meanwhile is told again",
    "device_wait": "a device that was written meanwhile stays due",
    "device_write": "a name that is missed is written with the next message",
}
"""Statements that find by its place a row that they took, with why one that changed while they waited may be
missed: it is another row by then, and none that their snapshot shows.
"""


def test_a_row_that_was_waited_for_is_found_by_its_key() -> None:
    used = {path.stem for path in (ROOT / "gateway/store/sql").glob("*.sql") if "ctid" in path.read_text()}
    assert used == BY_PLACE.keys()
