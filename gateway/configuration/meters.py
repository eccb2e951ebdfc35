"""Meter rules of one connection: lines of the file and rows of CSV tables, and rules that would feed one
meter twice.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pydantic import ValidationError

from gateway.configuration.document import Document
from gateway.configuration.fault import Fault, KeyPath, Place, did_you_mean
from gateway.configuration.shape import faults_of
from gateway.model.connector import Manifest
from gateway.model.meter import MeterMapping, MeterRule, MetersRefused, materialise
from gateway.model.topics import IDENTIFIER
from gateway.settings import MeterSettings

_COLUMNS = tuple(name for name in MeterSettings.model_fields if name != "table")
_REQUIRED = {"device", "metric", "meter"}
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedRule:
    """A rule and where it is written."""

    rule: MeterRule
    place: Place
    path: KeyPath


def rules_of(
    meters: Sequence[MeterSettings], document: Document, base: KeyPath, folder: Path, faults: list[Fault]
) -> list[PlacedRule]:
    """Every rule of a connection, in order; tables are read. `base` is the path of its `meters`."""
    rules: list[PlacedRule] = []
    for index, meter in enumerate(meters):
        path = (*base, index)
        if meter.table is None:
            rules.append(PlacedRule(rule=_rule(meter), place=document.place(path), path=path))
        else:
            rules.extend(_table(folder / meter.table, document, (*path, "table"), faults))
    for placed in rules:
        faults.extend(_template_faults(placed))
    return rules


def conflicts(rules: Sequence[PlacedRule], *, resolution: timedelta) -> list[Fault]:
    """Two rules for one meter, as far as the configuration alone can tell: over the devices it names and one
    for each pattern.
    """
    examples = {_example(placed.rule.device) for placed in rules}
    _, found = materialise([placed.rule for placed in rules], examples, resolution=resolution)
    faults: dict[int, Fault] = {}
    for conflict in found:
        if isinstance(conflict, MetersRefused):
            continue  # how many devices there are is not known here
        kept, refused = _origin(rules, conflict.kept), _origin(rules, conflict.refused)
        if kept is refused:
            continue  # a pattern without {device}: its own fault says so
        message = (
            f"meter {conflict.meter!r} is already fed by {kept.rule.device}/{kept.rule.metric}"
            f" ({kept.place}); give it another meter, or use {{device}} or {{metric}} in the template"
        )
        faults.setdefault(id(refused), Fault(place=refused.place, path=refused.path, message=message))
    return list(faults.values())


def not_made(rules: Sequence[PlacedRule], manifest: Manifest) -> list[Fault]:
    """Rules that want meters made by a system that makes none."""
    if manifest.capabilities.can_create_meter:
        return []
    message = f"create: {manifest.title} makes no meters; make them there, and leave it out"
    return [
        Fault(place=placed.place, path=(*placed.path, "create") if placed.path else (), message=message)
        for placed in rules
        if placed.rule.create
    ]


def _rule(meter: MeterSettings) -> MeterRule:
    assert meter.device is not None
    assert meter.metric is not None
    assert meter.meter is not None
    return MeterRule(
        device=meter.device,
        metric=meter.metric,
        meter=meter.meter,
        unit=meter.unit,
        reduce=meter.reduce,
        every=timedelta(0) if meter.reduce == "each" else meter.every,
        deadband=meter.deadband,
        create=meter.create,
        max_silence=meter.max_silence,
        arithmetic=meter.arithmetic,
    )


def _table(file: Path, document: Document, path: KeyPath, faults: list[Fault]) -> list[PlacedRule]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        faults.append(
            Fault(place=document.place(path), path=path, message=f"table {file} cannot be read: {reason}")
        )
        return []
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", strict=True)
    try:
        return _rows(reader, Document(str(file)), faults)
    except csv.Error as error:
        faults.append(
            Fault(place=Place(file=str(file), line=reader.line_num), path=(), message=f"is not CSV: {error}")
        )
        return []


def _rows(reader: csv.DictReader[str], table: Document, faults: list[Fault]) -> list[PlacedRule]:
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    header = Place(file=table.file, line=1)
    wrong = [
        f"unknown column {name!r}{did_you_mean(name, _COLUMNS)}" for name in columns if name not in _COLUMNS
    ]
    wrong += [
        f"column {name!r} is missing; the first line names the columns"
        for name in sorted(_REQUIRED - set(columns))
    ]
    faults.extend(Fault(place=header, path=(), message=message) for message in wrong)
    if wrong:
        return []
    rules: list[PlacedRule] = []
    for row in reader:
        place = Place(file=table.file, line=reader.line_num)
        if "" in row:
            faults.append(
                Fault(
                    place=place,
                    path=(),
                    message=(
                        f"has more values than the {len(columns)} columns; quote a value that has a comma"
                    ),
                )
            )
            continue
        given = {name: value.strip() for name, value in row.items() if value is not None and value.strip()}
        try:
            rules.append(PlacedRule(rule=_rule(MeterSettings.model_validate(given)), place=place, path=()))
        except ValidationError as error:
            faults.extend(
                Fault(place=place, path=found.path, message=found.message)
                for found in faults_of(error, MeterSettings, table)
            )
    return rules


def _template_faults(placed: PlacedRule) -> list[Fault]:
    names = set(_PLACEHOLDER.findall(placed.rule.meter))
    messages = [
        f"unknown placeholder {{{name}}} in meter{did_you_mean(name, ('device', 'metric'))}"
        for name in sorted(names - {"device", "metric"})
    ]
    if placed.rule.is_glob and "device" not in names:
        messages.append(
            f"the pattern {placed.rule.device!r} may match several devices and a meter is fed by one: put"
            " {device} into meter"
        )
    literal = re.sub(r"\[[^\]]*\]|[*?]", "a", placed.rule.device)
    if not IDENTIFIER.fullmatch(literal):
        messages.append(
            f"no device can have the id {placed.rule.device!r}: letters, digits and . _ -, at most 64, the"
            " first a letter or digit"
        )
    return [Fault(place=placed.place, path=placed.path, message=message) for message in messages]


def _example(device: str) -> str:
    """A device id that a pattern matches (a literal one is its own example)."""
    return re.sub(r"\[!?([^\]])[^\]]*\]|[*?]", lambda found: found[1] or "x", device)


def _origin(rules: Sequence[PlacedRule], mapping: MeterMapping) -> PlacedRule:
    return next(
        placed
        for placed in rules
        if placed.rule.metric == mapping.metric
        and placed.rule.matches(mapping.device)
        and placed.rule.meter.replace("{device}", mapping.device).replace("{metric}", mapping.metric)
        == mapping.meter
    )
