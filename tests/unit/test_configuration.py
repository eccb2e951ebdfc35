"""Configuration: what is right is read, what is wrong is told at once, each with its file, line and path."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import certifi
import jsonschema
import pytest
import yaml

from connectors.registry import SYSTEMS
from gateway.configuration import Faults, Loaded, load

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
        "environment variable FIELDGATE_BROKER__URLL: sets no key of the configuration; did you mean"
        " 'FIELDGATE_BROKER__URL'?"
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


@pytest.mark.parametrize(
    ("table", "fault"),
    [
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
