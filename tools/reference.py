"""Writes what is generated from the code: JSON Schemas, AsyncAPI, OpenAPI, tables of what the code knows.
`python -m tools.reference`.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import yaml
from prometheus_client import Counter, Gauge, Histogram

from connectors.registry import SYSTEMS
from gateway import metrics
from gateway.bulk_histogram import BulkHistogram
from gateway.configuration.schema import connections_schema, main_schema
from gateway.events.cloudevent import CloudEvent
from gateway.events.documents import (
    AlertDocument,
    DeviceStatus,
    GatewayStatus,
    IssueDocument,
    ReplicaStatus,
    StatusDocument,
)
from gateway.http.application import build
from gateway.http.auth import Mounted
from gateway.model.connector import Manifest
from gateway.processes.readiness import Readiness
from tools import asyncapi

ROOT = Path(__file__).parents[1]
_LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def files() -> Mapping[str, str]:
    """Path in the repository to content."""
    schemas = {
        "config/schemas/fieldgate.schema.json": main_schema(),
        "config/schemas/connections.schema.json": connections_schema(SYSTEMS),
        "config/schemas/gateway-status.schema.json": GatewayStatus.model_json_schema(mode="serialization"),
        "config/schemas/replica-status.schema.json": ReplicaStatus.model_json_schema(mode="serialization"),
        "config/schemas/connection-status.schema.json": StatusDocument.model_json_schema(
            mode="serialization"
        ),
        "config/schemas/connection-issue.schema.json": IssueDocument.model_json_schema(mode="serialization"),
        "config/schemas/connection-alert.schema.json": AlertDocument.model_json_schema(mode="serialization"),
        "config/schemas/device-status.schema.json": DeviceStatus.model_json_schema(mode="serialization"),
        "config/schemas/event.schema.json": CloudEvent.model_json_schema(mode="validation"),
    }
    schemas |= {f"config/schemas/{name}.schema.json": schema for name, schema in asyncapi.schemas()}
    written = {
        path: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for path, schema in schemas.items()
    }
    written["docs/reference/openapi.json"] = (
        json.dumps(build(Readiness(), Mounted()).openapi(), indent=2, ensure_ascii=False) + "\n"
    )
    written["docs/reference/asyncapi.yaml"] = yaml.safe_dump(
        asyncapi.document(), sort_keys=False, allow_unicode=True, width=160
    )
    tables = {"metrics": metrics_table(), "log-events": events_table(), "connectors": connectors_table()}
    return {**written, **{f"docs/reference/{name}.md": table for name, table in tables.items()}}


def connectors_table() -> str:
    """What each system can do, by its manifest: a row for each fact, a column for each system."""
    manifests = [SYSTEMS[name].manifest for name in sorted(SYSTEMS)]
    lines = [
        "# Connectors",
        "",
        (
            "Generated from `connectors/*/manifest.toml`; settings may narrow it, or for generic systems"
            " widen it."
        ),
        "",
    ]
    pages = [f"[{manifest.title}](../connectors/{manifest.system}.md)" for manifest in manifests]
    lines += [
        f"| | {' | '.join(pages)} |",
        "|---" * (len(manifests) + 1) + "|",
    ]
    facts: dict[str, Callable[[Manifest], object]] = {
        "system": lambda manifest: f"`{manifest.system}`",
        "tier": lambda manifest: manifest.tier,
        "hosting": lambda manifest: ", ".join(manifest.hosting),
        "delivery": lambda manifest: manifest.capabilities.delivery,
        "a batch is answered": lambda manifest: manifest.capabilities.push,
        "readings in a request": lambda manifest: manifest.capabilities.max_items,
        "bytes in a request": lambda manifest: manifest.capabilities.max_bytes,
        "order": lambda manifest: manifest.capabilities.order,
        "resolution": lambda manifest: written(manifest.capabilities.resolution),
        "oldest reading": lambda manifest: written(manifest.capabilities.max_backfill),
        "youngest reading": lambda manifest: written(manifest.capabilities.future_skew or None),
        "a repeat is known by": lambda manifest: manifest.capabilities.dedup,
        "reading back": lambda manifest: manifest.capabilities.readback,
        "records": lambda manifest: ", ".join(stream.name for stream in manifest.streams) or None,
        "makes meters": lambda manifest: manifest.capabilities.can_create_meter,
        "raises events": lambda manifest: manifest.capabilities.can_raise_event,
        "alerts become": lambda manifest: ", ".join(f"`{kind}`" for kind in manifest.raises) or None,
        "values": lambda manifest: ", ".join(sorted(manifest.capabilities.values)),
        "credentials": lambda manifest: ", ".join(manifest.capabilities.auth),
    }
    for fact, of in facts.items():
        cells = (
            (
                {None: "-", True: "yes", False: "-"}.get(value, value)
                if isinstance(value := of(manifest), bool | None)
                else value
            )
            for manifest in manifests
        )
        lines.append(f"| {fact} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def written(duration: timedelta | None) -> str:
    """In its largest whole unit."""
    if duration is None:
        return "-"
    units = (
        ("d", timedelta(days=1)),
        ("h", timedelta(hours=1)),
        ("s", timedelta(seconds=1)),
        ("ms", timedelta(milliseconds=1)),
    )
    return next(
        (f"{duration // unit} {name}" for name, unit in units if not duration % unit),
        f"{duration // timedelta(microseconds=1)} us",
    )


def metrics_table() -> str:
    """Every metric of `gateway.metrics`."""
    lines = [
        "# Metrics",
        "",
        "Generated from `gateway/metrics.py`. Scraped at `/metrics`; every label is bounded.",
        "",
    ]
    lines += ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in vars(metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram | BulkHistogram):
            [family] = metric.collect() if isinstance(metric, BulkHistogram) else metric.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = ", ".join(f"`{label}`" for label in getattr(metric, "_labelnames", ())) or "-"
            lines.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(lines) + "\n"


def events_table() -> str:
    """Every event that the code logs."""
    lines = [
        "# Log events",
        "",
        (
            "Generated from the code. JSON on stderr: `event`, `level`, `at` and the fields below. Never a"
            " payload, never a secret."
        ),
        "",
    ]
    lines += ["| event | level | fields |", "|---|---|---|"]
    events: dict[str, tuple[set[str], set[str]]] = {}
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        for level, event, fields in _logged(ast.parse(path.read_text(encoding="utf-8"))):
            levels, names = events.setdefault(event, (set(), set()))
            levels.add("error" if level == "exception" else level)
            names |= fields
    events["library.{name}_logged"] = ({"warning"}, {"text"})
    for event, (levels, names) in sorted(events.items()):
        fields_cell = ", ".join(f"`{name}`" for name in sorted(names)) or "-"
        lines.append(f"| `{event}` | {', '.join(sorted(levels))} | {fields_cell} |")
    return "\n".join(lines) + "\n"


def _logged(tree: ast.Module) -> Iterator[tuple[str, str, set[str]]]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="log"), attr=level),
                args=[ast.Constant(value=str(event)), *_],
            ) if level in _LEVELS:
                yield level, event, {keyword.arg for keyword in node.keywords if keyword.arg is not None}
            case ast.Call(
                func=ast.Attribute(value=ast.Attribute(attr="_log"), attr=level),
                args=[ast.Constant(value=str(event)), *_],
            ) if level in _LEVELS:
                yield level, event, {keyword.arg for keyword in node.keywords if keyword.arg is not None}
            case _:
                pass


def main() -> None:
    """Writes every file."""
    for path, text in files().items():
        target = ROOT / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
