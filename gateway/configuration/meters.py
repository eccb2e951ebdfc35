"""Meter rules of one connection: lines of the file and rows of CSV tables, and rules that would feed one
meter twice.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path

from pydantic import ValidationError

from gateway.configuration.document import LocatedDocument
from gateway.configuration.fault import ConfigurationFault, FilePlace, KeyPath, did_you_mean
from gateway.configuration.shape import faults_of, keys_of
from gateway.meter_settings import MeterSettings
from gateway.model.calendar import MAX_CALENDARS, Calendar
from gateway.model.connector import Manifest
from gateway.model.meter import MeterMapping, MeterRule, MetersRefused, materialise, tells_apart
from gateway.model.topics import IDENTIFIER
from gateway.payloads.formats.values import MAX_NAME_LENGTH

_COLUMNS = tuple(name for name in keys_of(MeterSettings) if name != "table")
_REQUIRED = {"device", "metric", "meter"}
MAX_METER_BYTES = 2_000
"""Of a meter's name with all that its template may hold. Names are in the database's indexes, whose entries
have 2,704 bytes: a longer one would end each run of all of its customer's connections.
"""

MAX_DEVICE_BYTES = 64
MAX_COMPARISONS = 500_000
"""Of rules with each other, some seconds: what is not found here is refused where it is fed."""

MAX_PLACEHOLDERS = 5
"""Unknown ones of a meter that are told."""

MAX_CONFLICTS = 100
"""That are told: each is looked for among all rules."""

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedRule:
    """A rule and where it is written."""

    rule: MeterRule
    place: FilePlace
    path: KeyPath


def rules_of(
    meters: Sequence[MeterSettings],
    document: LocatedDocument,
    base: KeyPath,
    folder: Path,
    faults: list[ConfigurationFault],
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


def conflicts(rules: Sequence[PlacedRule], *, resolution: timedelta) -> list[ConfigurationFault]:
    """Two rules for one meter, as far as the configuration alone can tell: over the devices it names and one
    for each pattern.
    """
    examples = {_example(placed.rule.device) for placed in rules}
    # what else devices may send is not known here, and their names for it might be anything
    named = {placed.rule.metric for placed in rules if not placed.rule.is_metric_glob}
    _, found = materialise(
        [placed.rule for placed in rules],
        examples,
        resolution=resolution,
        metrics=dict.fromkeys(examples, named),
        max_comparisons=MAX_COMPARISONS,
    )
    faults: dict[int, ConfigurationFault] = {}
    # how many devices there are, and whether they make too many meters, is not known here
    conflicting = (conflict for conflict in found if not isinstance(conflict, MetersRefused))
    for conflict in islice(conflicting, MAX_CONFLICTS):
        kept, refused = _origin(rules, conflict.kept), _origin(rules, conflict.refused)
        if kept is refused:
            continue  # a pattern without {device}: its own fault says so
        message = (
            f"meter {conflict.meter!r} is already fed by {kept.rule.device}/{kept.rule.metric}"
            f" ({kept.place}); give it another meter, or use {{device}} or {{metric}} in the template"
        )
        faults.setdefault(
            id(refused), ConfigurationFault(place=refused.place, path=refused.path, message=message)
        )
    return list(faults.values())


def not_made(rules: Sequence[PlacedRule], manifest: Manifest) -> list[ConfigurationFault]:
    """Rules that want meters made by a system that makes none."""
    if manifest.capabilities.can_create_meter:
        return []
    message = f"create: {manifest.title} makes no meters; make them there, and leave it out"
    return [
        ConfigurationFault(
            place=placed.place, path=(*placed.path, "create") if placed.path else (), message=message
        )
        for placed in rules
        if placed.rule.create
    ]


def too_long(
    rules: Sequence[PlacedRule], manifest: Manifest, *, lateness: timedelta, retention: timedelta | None
) -> list[ConfigurationFault]:
    """Rules whose windows are over too late: their first samples are gone by then, or the system takes
    nothing as old as their start. `retention`: None where it is not known.
    """
    found: list[ConfigurationFault] = []
    for placed in rules:
        every, limit = placed.rule.every, manifest.capabilities.max_backfill
        longest = every.longest if isinstance(every, Calendar) else every
        if limit is not None and longest >= limit:
            message = (
                f"{manifest.title} takes no reading of more than {limit.total_seconds() / 3600:g} h ago, and"
                " a reading has the time at which its window starts: take a shorter window"
            )
        elif retention is not None and longest + lateness > retention:
            message = (
                f"a window takes up to {longest.total_seconds() / 86400:.3g} days, and telemetry.retention"
                f" keeps samples for {retention.total_seconds() / 86400:g}: shorten the window, or raise it"
            )
        else:
            continue
        path = (*placed.path, "every") if placed.path else ()
        found.append(ConfigurationFault(place=placed.place, path=path, message=message))
    return found


def too_many_calendars(rules: Sequence[PlacedRule]) -> list[ConfigurationFault]:
    """The first rule whose windows are those of one calendar more than a connection may have."""
    seen: set[Calendar] = set()
    for placed in rules:
        if isinstance(placed.rule.every, Calendar):
            seen.add(placed.rule.every)
        if len(seen) > MAX_CALENDARS:
            message = (
                f"a connection has {MAX_CALENDARS} different windows of the calendar at most, each of its"
                " zone and shifts: use some of them for several rules, or another connection"
            )
            path = (*placed.path, "every") if placed.path else ()
            return [ConfigurationFault(place=placed.place, path=path, message=message)]
    return []


def _rule(meter: MeterSettings) -> MeterRule:
    assert meter.device is not None
    assert meter.metric is not None
    assert meter.meter is not None
    return MeterRule(
        device=meter.device,
        metric=meter.metric,
        meter=meter.meter,
        unit=meter.told_unit,
        reduce=meter.reduce,
        every=timedelta(0) if meter.reduce == "each" else meter.window,
        deadband=meter.deadband,
        create=meter.create,
        max_silence=meter.max_silence,
        arithmetic=meter.arithmetic,
    )


def _table(
    file: Path, document: LocatedDocument, path: KeyPath, faults: list[ConfigurationFault]
) -> list[PlacedRule]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        faults.append(
            ConfigurationFault(
                place=document.place(path), path=path, message=f"table {file} cannot be read: {reason}"
            )
        )
        return []
    reader = csv.DictReader(
        io.StringIO(text, newline=""), restkey="", delimiter=_separator(text), strict=True
    )
    try:
        return _rows(reader, LocatedDocument(str(file)), faults)
    except csv.Error as error:
        faults.append(
            ConfigurationFault(
                place=FilePlace(file=str(file), line=reader.line_num), path=(), message=f"is not CSV: {error}"
            )
        )
        return []


def _separator(text: str) -> str:
    """What stands between the columns: where a comma is a decimal point, spreadsheets write `;`, and what is
    copied out of them has tabs. The first line names the columns, and no name has any of them.
    """
    header = text.partition("\n")[0]
    return max((",", ";", "\t"), key=header.count)


def _rows(
    reader: csv.DictReader[str], table: LocatedDocument, faults: list[ConfigurationFault]
) -> list[PlacedRule]:
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    header = FilePlace(file=table.file, line=1)
    wrong = [
        f"unknown column {name!r}{did_you_mean(name, _COLUMNS)}" for name in columns if name not in _COLUMNS
    ]
    wrong += [
        f"column {name!r} is missing; the first line names the columns"
        for name in sorted(_REQUIRED - set(columns))
    ]
    faults.extend(ConfigurationFault(place=header, path=(), message=message) for message in wrong)
    if wrong:
        return []
    rules: list[PlacedRule] = []
    for row in reader:
        place = FilePlace(file=table.file, line=reader.line_num)
        if "" in row:
            faults.append(
                ConfigurationFault(
                    place=place,
                    path=(),
                    message=(
                        f"has more values than the {len(columns)} columns; quote a value that has a"
                        f" {reader.reader.dialect.delimiter!r}"
                    ),
                )
            )
            continue
        given = {name: value.strip() for name, value in row.items() if value is not None and value.strip()}
        try:
            rules.append(PlacedRule(rule=_rule(MeterSettings.model_validate(given)), place=place, path=()))
        except ValidationError as error:
            faults.extend(
                ConfigurationFault(place=place, path=found.path, message=found.message)
                for found in faults_of(error, MeterSettings, table)
            )
    return rules


def _template_faults(placed: PlacedRule) -> list[ConfigurationFault]:
    names = set(_PLACEHOLDER.findall(placed.rule.meter))
    messages = [
        f"unknown placeholder {{{name}}} in meter{did_you_mean(name, ('device', 'metric'))}"
        for name in sorted(names - {"device", "metric"})[:MAX_PLACEHOLDERS]
    ]
    if placed.rule.is_glob and "device" not in names:
        messages.append(
            f"the pattern {placed.rule.device!r} may match several devices and a meter is fed by one: put"
            " {device} into meter"
        )
    if placed.rule.is_metric_glob:
        messages.extend(_metric_glob_faults(placed.rule, names))
    messages.extend(_length_faults(placed.rule))
    literal = re.sub(r"\[[^\]]*\]|[*?]", "a", placed.rule.device)
    if not IDENTIFIER.fullmatch(literal):
        messages.append(
            f"no device can have the id {placed.rule.device!r}: letters, digits and . _ -, at most 64, the"
            " first a letter or digit"
        )
    return [ConfigurationFault(place=placed.place, path=placed.path, message=message) for message in messages]


def _metric_glob_faults(rule: MeterRule, names: set[str]) -> Iterator[str]:
    if "metric" not in names:
        yield (
            f"the pattern {rule.metric!r} may match several metrics and a meter is fed by one: put {{metric}}"
            " into meter"
        )
    elif rule.is_glob and "device" in names and not tells_apart(rule.meter):
        yield (
            f"two metrics may make one meter of {rule.meter!r}, for an id and a metric may have dots, dashes"
            " and underscores: write each of {device} and {metric} once, with another character between them,"
            " such as a space, / or :"
        )
    elif rule.meter.count("{metric}") > 1:
        yield "{metric} stands in meter once: a name of a metric may be long"


def _length_faults(rule: MeterRule) -> Iterator[str]:
    if len(rule.metric) > MAX_NAME_LENGTH:
        yield f"no metric has a name of more than {MAX_NAME_LENGTH} characters"
    widest = rule.meter.replace("{device}", "x" * MAX_DEVICE_BYTES if rule.is_glob else rule.device).replace(
        "{metric}", "x" * 4 * MAX_NAME_LENGTH if rule.is_metric_glob else rule.metric
    )
    if len(widest.encode("utf-8", "surrogatepass")) > MAX_METER_BYTES:
        yield f"the name of the meter may become longer than {MAX_METER_BYTES:,} bytes: choose a shorter one"


def _example(device: str) -> str:
    """A device id that a pattern matches (a literal one is its own example)."""
    return re.sub(r"\[!?([^\]])[^\]]*\]|[*?]", lambda found: found[1] or "x", device)


def _origin(rules: Sequence[PlacedRule], mapping: MeterMapping) -> PlacedRule:
    return next(
        placed
        for placed in rules
        if placed.rule.feeds_from(mapping.device, mapping.metric)
        and placed.rule.meter.replace("{device}", mapping.device).replace("{metric}", mapping.metric)
        == mapping.meter
    )
