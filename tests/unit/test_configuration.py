"""Configuration: what is right is read, what is wrong is told at once, each with its file, line and path."""

from __future__ import annotations

import json
from datetime import time, timedelta
from pathlib import Path
from zoneinfo import available_timezones

import certifi
import jsonschema
import pytest
import yaml

from connectors.registry import SYSTEMS
from gateway.configuration import Faults, Loaded, load
from gateway.model.calendar import Calendar
from gateway.model.meter import from_document, to_document

ROOT = Path(__file__).parents[2]
KEY = {"KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}
SECURITY = 'security: {encryption_keys: ["${env:KEY}"]}\n'
CONNECTION = """\
connections:
  - id: acme-sink
    customer: acme
    system: postgres
    credentials: {type: dsn, dsn: "${env:SINK}"}
    meters:
"""
SINK = {"SINK": "postgresql://sink:sink@sinks.example/sink"}


def read(
    folder: Path, main: str, connections: str | None = None, environ: dict[str, str] | None = None
) -> Loaded:
    text = main if connections is None else main + "connections_file: connections.yaml\n"
    (folder / "main.yaml").write_text(text)
    if connections is not None:
        (folder / "connections.yaml").write_text(connections)
    return load(folder / "main.yaml", {**KEY, **SINK, **(environ or {})}, systems=SYSTEMS)


def told(
    folder: Path, main: str, connections: str | None = None, environ: dict[str, str] | None = None
) -> list[str]:
    with pytest.raises(Faults) as raised:
        read(folder, main, connections, environ)
    return [str(fault).replace(f"{folder}/", "") for fault in raised.value.faults]


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    loaded = read(tmp_path, SECURITY)
    assert loaded.settings.sync.workers == 8
    assert loaded.settings.security.encryption_keys[0].get_secret_value() == KEY["KEY"]
    assert loaded.connections == ()


def test_every_fault_is_told_at_once_with_file_line_and_path(tmp_path: Path) -> None:
    main = SECURITY + "customers: [acme]\nsync:\n  wrokers: 8\n  lateness: 5\ndatabase: {workers: 3}\n"
    faults = told(
        tmp_path,
        main,
        CONNECTION.replace("    meters:\n", "").replace("postgres", "postgrs").replace("acme\n", "akme\n"),
    )
    assert faults == [
        (
            "connections.yaml:3: connections[0].customer: 'akme' is not among the customers of the main file;"
            " did you mean 'acme'?"
        ),
        "connections.yaml:4: connections[0].system: unknown system 'postgrs'; did you mean 'postgres'?",
        "main.yaml:4: sync.wrokers: unknown key; did you mean 'workers'?",
        "main.yaml:5: sync.lateness: a duration is a number and a unit: 200ms, 30s, 5m, 2h or 7d",
        "main.yaml:6: database.workers: unknown key; 'workers' belongs under 'sync'",
    ]


@pytest.mark.parametrize(
    ("main", "fault"),
    [
        ("customers: [acme\n", "main.yaml:3: is not YAML"),
        ("customers:\n- 'a\0b'\n", "main.yaml:3: is not YAML: the character U+0000"),
        ("customers: ['a\x07b']\n", "main.yaml:2: is not YAML: the character U+0007"),
        ("- a\n", "main.yaml"),
        ("instance: a\ninstance: b\n", "main.yaml:3: instance: is given twice (first in line 2)"),
        ("instance: no\n", "main.yaml:2: instance: must be text; put it in quotes"),
        ("broker: {url: 'http://x'}\n", "main.yaml:2: broker.url: expected mqtt://host:port"),
        ("broker: {password: hunter2}\n", "main.yaml:2: broker.password: is a secret written in clear"),
        (
            "database: {dsn: 'postgresql://u:pw@h/d'}\n",
            "main.yaml:2: database.dsn: is a secret written in clear",
        ),
        ("instance: '${ENV:X}'\n", "main.yaml:2: instance: ${ENV:X} is unknown"),
        (
            "broker: {password: '${env:NOT_THERE}'}\n",
            "main.yaml:2: broker.password: environment variable NOT_THERE is not set; set it",
        ),
        (
            "broker: {password: '${file:gone}'}\n",
            "gone cannot be read (No such file or directory); create it",
        ),
        (
            "broker: {partitions: 2}\n",
            "main.yaml:2: broker.partitions: partitions divide the listed customers",
        ),
        ("a: &a [*a]\n", "main.yaml:2: is not YAML: aliases"),
        (
            "telemetry: {sources: [{topic: '{customer}/{device}/#'}]}\n",
            "main.yaml:2: telemetry.sources[0].topic",
        ),
        (
            (
                "telemetry:\n  sources:\n    - {topic: '{customer}/devices/{device}'}\n    - {topic:"
                " '{customer}/{device}/x'}\nbroker: {partitions: 2}\ncustomers: [acme]\n"
            ),
            (
                "main.yaml:5: telemetry.sources[1]: '{customer}/{device}/x' overlaps"
                " '{customer}/devices/{device}'"
            ),
        ),
    ],
)
def test_a_fault_of_the_main_file(tmp_path: Path, main: str, fault: str) -> None:
    text = main if main.startswith("- ") else SECURITY + main
    assert any(fault in line for line in told(tmp_path, text)), told(tmp_path, text)


def test_a_missing_file_is_one_fault(tmp_path: Path) -> None:
    with pytest.raises(Faults) as raised:
        load(tmp_path / "none.yaml", {}, systems=SYSTEMS)
    assert [fault.message.split(";")[0] for fault in raised.value.faults] == ["no such file"]


def test_no_fault_repeats_a_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    main = SECURITY + "broker: {url: '${file:secret}', password: '${env:PW}', keepalive: '${env:PW}'}\n"
    faults = told(tmp_path, main, environ={"PW": "hunter3"})
    assert len(faults) == 2
    assert not any("hunter" in fault for fault in faults)


def test_secrets_come_from_files_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("hunter2\n")
    password = read(
        tmp_path, SECURITY + "broker: {password: '${file:pw}', topic_root: 'a$${b}'}\n"
    ).settings.broker.password
    assert password is not None
    assert password.get_secret_value() == "hunter2"


def test_the_environment_overrides(tmp_path: Path) -> None:
    environ = {
        "FIELDGATE_SYNC__WORKERS": "3",
        "FIELDGATE_CUSTOMERS": '["a", "b"]',
        "FIELDGATE_BROKER__PASSWORD": "0123",
        "FIELDGATE_CREDITS__TIER_PRICE__1": "5",
    }
    settings = read(tmp_path, SECURITY + "sync: {workers: 9, max_attempts: 4}\n", environ=environ).settings
    assert (settings.sync.workers, settings.sync.max_attempts, settings.customers) == (3, 4, ("a", "b"))
    assert settings.broker.password is not None
    assert settings.broker.password.get_secret_value() == "0123"


def test_an_override_of_nothing_is_a_fault_unless_somebody_asks_for_it(tmp_path: Path) -> None:
    environ = {
        "FIELDGATE_BROKER__URLL": "x",
        "FIELDGATE_DSN": "postgresql:///x",
        "FIELDGATE_SERVICE_HOST": "10.0.0.1",
        "FIELDGATE_PORT_8080_TCP": "y",
    }
    faults = told(tmp_path, SECURITY + "database: {dsn: '${env:FIELDGATE_DSN}'}\n", environ=environ)
    assert faults == [
        (
            "environment variable FIELDGATE_BROKER__URLL: sets no key of the configuration;"
            " did you mean 'FIELDGATE_BROKER__URL'?"
        )
    ]


def test_a_faulty_override_is_told_by_its_variable(tmp_path: Path) -> None:
    faults = told(tmp_path, SECURITY + "sync: {workers: 9}\n", environ={"FIELDGATE_SYNC__WORKERS": "many"})
    assert faults[0].startswith(
        "environment variable FIELDGATE_SYNC__WORKERS: sync.workers: input should be a valid integer"
    )


def test_a_fallback_is_under_the_file_and_the_environment(tmp_path: Path) -> None:
    (tmp_path / "main.yaml").write_text("broker: {url: 'mqtt://mine:1'}\n")
    fallback = {
        "broker": {"url": "mqtt://theirs:2"},
        "security": {"encryption_keys": [KEY["KEY"]]},
        "database": {"dsn": "postgresql:///d"},
    }
    settings = load(
        tmp_path / "main.yaml",
        {"FIELDGATE_DATABASE__DSN": "postgresql:///e"},
        systems=SYSTEMS,
        fallback=fallback,
    ).settings
    assert (settings.broker.url, settings.database.dsn.get_secret_value()) == (
        "mqtt://mine:1",
        "postgresql:///e",
    )
    assert load(None, {}, systems=SYSTEMS, fallback=fallback).settings.broker.url == "mqtt://theirs:2"


MAIN = SECURITY + "customers: [acme]\n"


def test_rules_come_from_lines_and_tables(tmp_path: Path) -> None:
    (tmp_path / "meters.csv").write_text(
        '\ufeffdevice, metric,meter,unit,reduce,every\npump-1,flow,"A,1",L,max,1h\npump-2,flow,A2,,each,\n'
    )
    meters = (
        CONNECTION + "      - {device: 'p-*', metric: t, meter: '{device}-T', deadband: 0.5}\n      - {table:"
        " meters.csv}\n"
    )
    [declared] = read(tmp_path, MAIN, meters).connections
    assert [(rule.device, rule.meter, rule.reduce, rule.every) for rule in declared.rules] == [
        ("p-*", "{device}-T", "last", timedelta(minutes=15)),
        ("pump-1", "A,1", "max", timedelta(hours=1)),
        ("pump-2", "A2", "each", timedelta(0)),
    ]


def test_patterns_of_metrics_and_units_may_stand_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "meters.csv").write_text(
        "device,metric,meter,unit,from,to,reduce\n*,temp*,{device} {metric},°C,degF,CEL,mean\n"
        "a,[x],a [x],,,,last\na,*,a.{metric},,,,count\n"
    )
    [declared] = read(tmp_path, MAIN, CONNECTION + "      - {table: meters.csv}\n").connections
    first, second, third = declared.rules[-3:]
    assert (first.unit, str(first.arithmetic)) == ("°C", "degF to CEL (times 5/9, plus -160/9)")
    assert [rule.is_metric_glob for rule in (first, second, third)] == [True, False, True]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_of_meters_may_have_semicolons_or_tabs_between_its_columns(
    tmp_path: Path, separator: str
) -> None:
    """As spreadsheets write it where a comma is a decimal point."""
    lines = [["device", "metric", "meter", "deadband"], ["pump-1", "t", '"A,1;x\ty"', "0.5"]]
    table = "\r\n".join(separator.join(line) for line in lines) + "\r\n"
    (tmp_path / "meters.csv").write_text(table)
    [declared] = read(tmp_path, MAIN, CONNECTION + "      - {table: meters.csv}\n").connections
    assert [(rule.device, rule.meter, rule.deadband) for rule in declared.rules] == [
        ("pump-1", "A,1;x\ty", 0.5)
    ]


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("device;metric;meter\na;b;c;d\n", "quote a value that has a ';'"),
        ("device;metric;meter;deadband\na;b;c;0,5\n", "meters.csv:2: deadband"),
        ("device,metric,meter\na,b,c\nd,e,\n", "meters.csv:3: a meter needs device, metric and meter"),
        ("device,metric,metre\na,b,c\n", "meters.csv:1: unknown column 'metre'; did you mean 'meter'?"),
        ("device,metric\na,b\n", "meters.csv:1: column 'meter' is missing"),
        ("device,metric,meter\na,b,c,d\n", "meters.csv:2: has more values than the 3 columns"),
        ("device,metric,meter,reduce\na,b,c,median\n", "meters.csv:2: reduce: input should be 'last'"),
        (
            "device,metric,meter\na,b,c\na,d,c\n",
            "meters.csv:3: meter 'c' is already fed by a/b (meters.csv:2)",
        ),
        ('device,metric,meter\na,b,"c\n', "is not CSV"),
        (
            "device,metric,meter,reduce,scale\na,b,c,delta,0.1\na,d,e,count,0.1\n",
            "meters.csv:3: `scale` does nothing for reduce: count",
        ),
        ("device,metric,meter,valid\na,b,c,-40..x\n", "meters.csv:2: valid"),
        ("device,metric,meter,every\na,b,c,day\n", "meters.csv:2: `every: day` needs the `zone`"),
        (
            "device,metric,meter,every,zone\na,b,c,day,Europe/Berln\n",
            "meters.csv:2: zone: 'Europe/Berln' is no",
        ),
        (
            "device,metric,meter,every,zone,shifts\na,b,c,shift,UTC,6 14\n",
            "meters.csv:2: shifts: expected times",
        ),
    ],
)
def test_a_fault_of_a_table_has_its_line(tmp_path: Path, table: str, fault: str) -> None:
    (tmp_path / "meters.csv").write_text(table)
    faults = told(tmp_path, MAIN, CONNECTION + "      - {table: meters.csv}\n")
    assert any(fault in line for line in faults), faults


@pytest.mark.parametrize(
    ("meters", "fault"),
    [
        ("- {table: none.csv}", "connections.yaml:7: connections[0].meters[0].table: table"),
        (
            "- {device: a, metric: b}",
            "connections.yaml:7: connections[0].meters[0]: a meter needs device, metric and meter",
        ),
        (
            "- {device: 'a*', metric: b, meter: m}",
            "may match several devices and a meter is fed by one: put {device} into meter",
        ),
        (
            "- {device: a, metric: b, meter: m, reduce: mean, rollover: 65536}",
            "connections.yaml:7: connections[0].meters[0]: `rollover` does nothing for reduce: mean",
        ),
        (
            "- {device: a, metric: 'b*', meter: m}",
            "the pattern 'b*' may match several metrics and a meter is fed by one: put {metric} into meter",
        ),
        (
            "- {device: '*', metric: '*', meter: '{device}.{metric}'}",
            "two metrics may make one meter of '{device}.{metric}'",
        ),
        (
            "- {device: a, metric: '*', meter: 'a {metric} {metric}'}",
            "{metric} stands in meter once",
        ),
        (
            f"- {{device: a, metric: b, meter: {'x' * 2_001}}}",
            "the name of the meter may become longer than 2,000 bytes",
        ),
        (
            f"- {{device: 'a*', metric: '*', meter: '{{device}} {{metric}} {'x' * 911}'}}",
            "the name of the meter may become longer than 2,000 bytes",
        ),
        (
            f"- {{device: a, metric: {'b' * 257}, meter: m}}",
            "no metric has a name of more than 256 characters",
        ),
        (
            "- {device: '*', metric: '*', meter: '{metric}'}",
            "the pattern '*' may match several devices",
        ),
        (
            "- {device: a, metric: b, meter: m, from: degF, to: BAR}",
            "connections.yaml:7: connections[0].meters[0]: degF and BAR are not of one kind",
        ),
        (
            "- {device: a, metric: b, meter: m, from: MPA, to: CEL}",
            "connections[0].meters[0]: MPA and CEL are not of one kind",  # not mPA, which is another unit
        ),
        (
            "- {device: a, metric: b, meter: '{devcie}'}",
            "unknown placeholder {devcie} in meter; did you mean 'device'?",
        ),
        (
            (
                "- {device: 'a*', metric: b, meter: '{device}'}\n      - {device: 'a*', metric: c, meter:"
                " '{device}'}"
            ),
            "connections.yaml:8: connections[0].meters[1]: meter 'ax' is already fed by a*/b",
        ),
        (
            "- {device: 'a*', metric: b, meter: '{device}-x'}\n      - {device: a1, metric: c, meter: a1-x}",
            "meter 'a1-x' is already fed by a*/b",
        ),
    ],
)
def test_a_fault_of_a_rule(tmp_path: Path, meters: str, fault: str) -> None:
    faults = told(tmp_path, MAIN, f"{CONNECTION}      {meters}\n")
    assert any(fault in line for line in faults), faults


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("every: day", "`every: day` needs the `zone` whose day it is"),
        ("every: 1h, zone: Europe/Berlin", "`zone` and `shifts` are for windows of the calendar"),
        (
            "every: day, zone: Berlin",
            "zone: 'Berlin' is no time zone of the IANA database, such as Europe/Berlin",
        ),
        ("every: day, zone: right/Europe/Berlin", "zone: 'right/Europe/Berlin' is no time zone"),
        ("every: day, zone: ../../etc/passwd", "zone: '../../etc/passwd' is no time zone"),
        ("every: daily, zone: UTC", "every: a duration is a number and a unit"),
        ("every: fortnight, zone: UTC", "windows of the calendar are day, week, month, shift"),
        ("every: shift, zone: UTC", "`every: shift` has `shifts`"),
        ('every: day, zone: UTC, shifts: ["06:00"]', "`every: shift` has `shifts`"),
        ("every: shift, zone: UTC, shifts: [06:00, 14:00]", "shifts: expected times of day in quotes"),
        ('every: shift, zone: UTC, shifts: ["24:00"]', "shifts: expected times of day in quotes"),
        ("every: shift, zone: UTC, shifts: []", "shifts: expected 1 to 24 starts"),
        ('every: shift, zone: UTC, shifts: ["14:00", "06:00"]', "shifts: the starts ascend within a day"),
        ('every: shift, zone: UTC, shifts: ["06:00", "06:05"]', "15 minutes apart at least"),
        ('every: shift, zone: UTC, shifts: ["00:00", "23:50"]', "15 minutes apart at least"),
        ("reduce: each, every: day, zone: UTC", "`every: day` does nothing for reduce: each"),
        ("reduce: run_time, every: day, zone: UTC, hold: 25h", "`hold` is a day"),
    ],
)
def test_a_fault_of_a_window_of_the_calendar(tmp_path: Path, said: str, fault: str) -> None:
    faults = told(tmp_path, MAIN, f"{CONNECTION}      - {{device: a, metric: b, meter: c, {said}}}\n")
    assert len(faults) == 1 and faults[0].startswith("connections.yaml:7: connections[0].meters[0]")
    assert fault in faults[0]


def test_windows_of_the_calendar_are_read_from_a_file_and_a_table_alike(tmp_path: Path) -> None:
    (tmp_path / "meters.csv").write_text(
        "device,metric,meter,every,zone,shifts\n"
        "a,b,c,day,Europe/Berlin,\n"
        "a,b,d,shift,Australia/Lord_Howe,06:00 14:00 22:00\n"
    )
    rules = """\
      - {table: meters.csv}
      - {device: a, metric: b, meter: e, every: day, zone: Europe/Berlin}
      - {device: a, metric: b, meter: f, every: shift, zone: Australia/Lord_Howe, shifts: ["06:00", "14:00", "22:00"]}
"""
    (declared,) = read(tmp_path, MAIN, CONNECTION + rules).connections
    day, shift, *same = [rule.every for rule in declared.rules]
    assert same == [day, shift]
    assert day == Calendar(period="day", zone="Europe/Berlin")
    assert shift == Calendar(period="shift", zone="Australia/Lord_Howe", shifts=(time(6), time(14), time(22)))
    for rule in declared.rules:
        assert from_document(json.loads(json.dumps(to_document(rule)))) == rule


@pytest.mark.parametrize(
    ("main", "system", "every", "fault"),
    [
        ("telemetry: {retention: 20d}\n", "postgres", "month, zone: UTC", "telemetry.retention keeps"),
        ("telemetry: {retention: 20d}\n", "postgres", "21d", "telemetry.retention keeps"),
        ("telemetry: {retention: 20d}\n", "postgres", "week, zone: UTC", None),
        ("", "postgres", "month, zone: UTC", None),
        ("", "maintainx", "week, zone: UTC", "takes no reading of more than 72 h ago"),
        ("", "maintainx", "4d", "takes no reading of more than 72 h ago"),
        ("", "maintainx", "day, zone: UTC", None),
    ],
)
def test_a_window_that_is_over_too_late_is_told(
    tmp_path: Path, main: str, system: str, every: str, fault: str | None
) -> None:
    credentials = {
        "postgres": '{type: dsn, dsn: "${env:SINK}"}',
        "maintainx": '{type: api_key, api_key: "${env:SINK}"}',
    }
    wanted = CONNECTION.replace("system: postgres", f"system: {system}").replace(
        credentials["postgres"], credentials[system]
    )
    wanted += f"      - {{device: a, metric: b, meter: '7', every: {every}}}\n"
    if fault is None:
        assert read(tmp_path, MAIN + main, wanted).connections
    else:
        (said,) = told(tmp_path, MAIN + main, wanted)
        assert said.startswith("connections.yaml:7: connections[0].meters[0].every: ") and fault in said


def test_a_connection_has_a_bounded_number_of_calendars(tmp_path: Path) -> None:
    def rules(count: int) -> str:
        return "".join(
            f"      - {{device: a, metric: b{number}, meter: '{number}', every: shift, zone: UTC, shifts:"
            f' ["0{number % 50 // 10}:{number % 50}"]}}\n'
            for number in range(10, 10 + count)
        )

    assert read(
        tmp_path,
        MAIN,
        CONNECTION + rules(40) + rules(40).replace("metric: b", "metric: c").replace("meter: '", "meter: 'c"),
    ).connections
    more = "".join(
        f"      - {{device: a, metric: d{place}, meter: 'd{place}', every: day, zone: {zone}}}\n"
        for place, zone in enumerate(sorted(available_timezones())[:11])
    )
    (said,) = told(tmp_path, MAIN, CONNECTION + rules(40) + more)
    assert "meters[50].every: a connection has 50 different windows of the calendar at most" in said


def test_rules_that_feed_different_meters_are_no_conflict(tmp_path: Path) -> None:
    meters = (
        "      - {device: 'a*', metric: b, meter: '{device}-{metric}'}\n      - {device: 'a*', metric: c,"
        " meter: '{device}-{metric}'}\n"
    )
    assert len(read(tmp_path, MAIN, CONNECTION + meters).connections[0].rules) == 2


@pytest.mark.parametrize(
    ("written", "instead", "fault"),
    [
        (
            "customer: acme",
            "customer: akme",
            (
                "connections.yaml:3: connections[0].customer: 'akme' is not among the customers of the main"
                " file; did you mean 'acme'?"
            ),
        ),
        (
            "dsn:",
            "dns:",
            "connections.yaml:5: connections[0].credentials.dns: unknown key; did you mean 'dsn'?",
        ),
        (
            "type: dsn",
            "type: basic",
            (
                "connections.yaml:5: connections[0].credentials.type: PostgreSQL table does not take 'basic';"
                " it takes dsn"
            ),
        ),
        (
            "    meters:",
            "    settings: {tabel: x}",
            "connections.yaml:6: connections[0].settings.tabel: unknown key; did you mean 'table'?",
        ),
        (
            "    meters:",
            "    hosting: moon",
            "connections.yaml:6: connections[0].hosting: input should be 'cloud' or 'on_premises'",
        ),
        (
            '"${env:SINK}"',
            "postgresql://u:pw@h/d",
            "connections.yaml:5: connections[0].credentials.dsn: is a secret written in clear",
        ),
        (
            "    meters:",
            (
                "  - {id: acme-sink, customer: acme, system: postgres, credentials: {dsn:"
                " 'postgresql://x@sinks.example/x'}}"
            ),
            "'acme-sink' is already the connection at",
        ),
        (
            "connections:",
            "conections:",
            "connections.yaml:1: conections: unknown key; did you mean 'connections'?",
        ),
    ],
)
def test_a_fault_of_a_connection(tmp_path: Path, written: str, instead: str, fault: str) -> None:
    connections = (
        CONNECTION.replace("    meters:\n", "") if "meters" not in written else CONNECTION
    ).replace(written, instead)
    faults = told(tmp_path, MAIN, connections)
    assert any(fault in line for line in faults), faults


@pytest.mark.parametrize(
    ("schema", "sample"), [("fieldgate", "fieldgate.yaml"), ("connections", "connections.example.yaml")]
)
def test_the_schemas_take_the_samples_and_refuse_unknown_keys(schema: str, sample: str) -> None:
    rules = json.loads((ROOT / "config" / "schemas" / f"{schema}.schema.json").read_text())
    data = yaml.safe_load((ROOT / "config" / sample).read_text())
    jsonschema.validate(data, rules)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "unknown": 1}, rules)


@pytest.mark.parametrize("reference", ["${env:}", "${file:}", "${env}", "${}", "${other:x}"])
def test_a_reference_to_nothing_is_a_fault_where_it_stands(tmp_path: Path, reference: str) -> None:
    fault, *_ = told(tmp_path, SECURITY + f"broker:\n  password: '{reference}'\n")
    assert (
        fault.startswith("main.yaml:3: broker.password: ")
        and "is unknown; only ${env:NAME} and ${file:PATH}" in fault
    )


def test_a_variable_that_is_empty_is_a_fault(tmp_path: Path) -> None:
    fault, *_ = told(tmp_path, SECURITY + "broker:\n  password: '${env:EMPTY}'\n", environ={"EMPTY": ""})
    assert fault.startswith("main.yaml:3: broker.password: environment variable EMPTY is empty")


@pytest.mark.parametrize(
    "written",
    [
        '"9999-12-31T23:59:59-12:00"',
        '"0001-01-01T00:00:00+14:00"',
        "never",
        "2026-12-31",
        '"2026-12-31"',
        '"2026-12-31T00:00:00"',
        "2026-12-31T00:00:00Z",
        "1e300",
        ".inf",
        '"\\0"',
    ],
)
def test_an_end_of_a_credential_that_is_no_time_is_named(tmp_path: Path, written: str) -> None:
    connections = CONNECTION.replace(
        'credentials: {type: dsn, dsn: "${env:SINK}"}',
        f'credentials:\n      type: dsn\n      dsn: "${{env:SINK}}"\n      expires_at: {written}',
    )
    faults = told(tmp_path, MAIN, connections + "      - {device: d, metric: m, meter: x}\n")
    assert [fault.partition(": ")[0] for fault in faults] == ["connections.yaml:8"], faults
    assert "expires_at" in faults[0]


@pytest.mark.parametrize(
    "written", ["2027-03-01T00:00:00Z", "9999-12-31T23:59:59Z", "2027-03-01 01:00+01:00"]
)
def test_an_end_of_a_credential_is_a_time_with_its_zone(tmp_path: Path, written: str) -> None:
    connections = CONNECTION.replace('"${env:SINK}"}', f'"${{env:SINK}}", expires_at: "{written}"}}')
    loaded = read(tmp_path, MAIN, connections + "      - {device: d, metric: m, meter: x}\n")
    assert loaded.connections[0].settings.credentials.expires_at == written


def test_streams_that_are_not_there_are_told(tmp_path: Path) -> None:
    """What the settings name themselves is there."""
    wanted = CONNECTION.replace("    meters:\n", "    sync: {pull: [work_ordres], pull_interval: 1m}\n")
    (fault,) = told(tmp_path, SECURITY + "customers: [acme]\n", wanted)
    assert "sync.pull" in fault and "has no stream 'work_ordres'" in fault
    (fault,) = told(tmp_path, SECURITY + "customers: [acme]\n", wanted.replace("[work_ordres]", "7"))
    assert "sync.pull" in fault


@pytest.mark.parametrize("key", ["ca_file", "client_certificate", "client_key"])
def test_a_file_is_relative_to_the_file_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Wherever the program was started."""
    (tmp_path / "below").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    fault = told(tmp_path, SECURITY + f"broker: {{{key}: not/there.pem}}\n")[0]
    assert fault.startswith(f"main.yaml:2: broker.{key}: not/there.pem cannot be read")
    (tmp_path / "ca.pem").write_text(Path(certifi.where()).read_text())
    (tmp_path / "below" / "connections.yaml").write_text(
        CONNECTION.replace("    meters:\n", "    settings: {ca_file: ../ca.pem}\n")
    )
    loaded = read(
        tmp_path,
        SECURITY + "customers: [acme]\nbroker: {ca_file: ca.pem}\nconnections_file: below/connections.yaml\n",
    )
    assert loaded.settings.broker.ca_file == str(tmp_path / "ca.pem")
    named = loaded.connections[0].settings.settings["ca_file"]
    assert Path(str(named)).samefile(tmp_path / "ca.pem")


def test_a_file_that_the_environment_names_is_relative_to_where_the_program_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "ca.pem").write_text(Path(certifi.where()).read_text())
    loaded = read(tmp_path, SECURITY, environ={"FIELDGATE_BROKER__CA_FILE": "ca.pem"})
    assert loaded.settings.broker.ca_file == "ca.pem"


@pytest.mark.parametrize(
    ("main", "connections"),
    [
        ("broker: {password: '${env:AWAY}'}\n", None),
        ("database: {dsn: '${env:AWAY}'}\n", None),
        ("database: {dsn: '${file:away}'}\n", None),
        ("broker: {ca_file: away.pem}\n", None),
        (
            "customers: [acme]\n",
            CONNECTION.replace("${env:SINK}", "${env:AWAY}").replace("    meters:\n", ""),
        ),
        (
            "customers: [acme]\n",
            CONNECTION.replace("    meters:\n", "    settings: {table: '${file:away}'}\n"),
        ),
    ],
)
def test_a_secret_that_nobody_uses_may_be_away(tmp_path: Path, main: str, connections: str | None) -> None:
    assert told(tmp_path, SECURITY + main, connections)
    loaded = load(tmp_path / "main.yaml", {**KEY, **SINK}, systems=SYSTEMS, secrets=())
    assert len(loaded.connections) == (connections is not None)


@pytest.mark.parametrize(
    ("main", "connections"),
    [
        ("customers: [acme]\ninstance: '${env:AWAY}'\n", None),
        ("http: {public_url: '${env:AWAY}'}\n", None),
        (
            "customers: [acme]\n",
            CONNECTION.replace("id: acme-sink", "id: '${env:AWAY}'").replace("    meters:\n", ""),
        ),
        (
            "customers: [acme]\n",
            CONNECTION.replace("type: dsn", "type: '${env:AWAY}'").replace("    meters:\n", ""),
        ),
    ],
)
def test_what_is_no_secret_is_never_away_without_a_word(
    tmp_path: Path, main: str, connections: str | None
) -> None:
    told(tmp_path, SECURITY + main, connections)
    with pytest.raises(Faults, match="AWAY is not set"):
        load(tmp_path / "main.yaml", {**KEY, **SINK}, systems=SYSTEMS, secrets=())


def test_a_login_by_an_identity_provider_that_nobody_could_finish_is_refused(tmp_path: Path) -> None:
    oidc = "oidc: {issuer: https://id.acme.example, client_id: x, roles: {admin: [a]}, ca_file: ca.pem}\n"
    http = "http: {public_url: http://gateway.acme.example, authentication: false}\n"
    faults = told(tmp_path, SECURITY + oidc + http)
    assert [fault.partition(";")[0] for fault in faults] == [
        "main.yaml:2: oidc.ca_file: ca.pem cannot be read (No such file or directory)",
        "main.yaml:2: oidc.issuer: nobody logs in while http.authentication is off",
        "main.yaml:3: http.public_url: must be https: the identity provider (`oidc`) sends people back there",
    ]
    (tmp_path / "ca.pem").write_text("no certificate")
    http = "http: {public_url: https://gateway.acme.example}\n"
    assert len(told(tmp_path, SECURITY + oidc + http)) == 1
    (tmp_path / "ca.pem").write_bytes(Path(certifi.where()).read_bytes())
    found = read(tmp_path, SECURITY + oidc + http).settings.oidc
    assert found.ca_file == str(tmp_path / "ca.pem")  # beside the file that names it
    told_plain = told(
        tmp_path,
        SECURITY + "oidc: {issuer: https://x.example, client_id: x, roles: {admin: [a]}, client_secret: y}\n",
    )
    assert ["oidc.client_secret" in one for one in told_plain] == [True]


def test_secrets_of_logins_and_traces_are_needed_by_the_gateway_alone(tmp_path: Path) -> None:
    text = (
        SECURITY
        + "http: {public_url: https://gateway.example.com}\n"
        + 'oidc: {issuer: https://x.example, client_id: x, client_secret: "${env:LOGIN}", roles: {admin: [a]}}\n'
        + 'tracing: {endpoint: http://127.0.0.1:4318, headers: {x-of-mine: "${env:TRACES}"}}\n'
    )
    faults = told(tmp_path, text)
    assert [fault.partition(" ")[2].partition(" is")[0] for fault in faults] == [
        "oidc.client_secret: environment variable LOGIN",
        "tracing.headers.x-of-mine: environment variable TRACES",
    ]
    load(tmp_path / "main.yaml", KEY, systems=SYSTEMS, secrets=("database", "security"))
    (fault,) = told(tmp_path, SECURITY + "tracing: {headers: {x-of-mine: hush}}\n")
    assert "written in clear" in fault and "hush" not in fault


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        (
            "oidc: {issuer: https://login.microsoftonline.com/common/v2.0, client_id: x, roles: {admin: [a]}}",
            "oidc.issuer: `common` vouches for anybody with an account at Microsoft",
        ),
        (
            "oidc: {issuer: https://login.microsoftonline.com/Organizations/v2.0/, client_id: x}",
            "oidc.issuer: `organizations` vouches for anybody",
        ),
        ("tracing: {endpoint: http://127.0.0.1:4318/v1/traces/}", "tracing.endpoint: leave /v1/traces out"),
    ],
)
def test_an_address_that_could_not_work_is_a_fault(tmp_path: Path, section: str, fault: str) -> None:
    assert any(fault in line for line in told(tmp_path, f"{SECURITY}{section}\n"))
    one = "https://login.microsoftonline.com/00000000-0000-0000-0000-000000000000/v2.0"
    good = f"oidc: {{issuer: {one}, client_id: x, roles: {{admin: [a]}}}}\n"
    public = "http: {public_url: https://gateway.acme.example}\n"
    assert read(tmp_path, SECURITY + good + public).settings.oidc.issuer == one
