"""A reload: what of two configurations is put in force and what is named, which sources take what meanwhile,
and how the HTTP process learns of it.
"""

from __future__ import annotations

import asyncio
import base64
import pickle
import socket
from typing import Any

import pytest

from benchmarks.servers import PATIENCE
from gateway.configuration import Faults
from gateway.configuration.difference import RELOADED, differing, needing_restart, reloaded
from gateway.ingest.decode import Decoder, FormerIntake
from gateway.model.errors import DecodeError
from gateway.payloads.sources import compile_sources
from gateway.processes.channel import Channel, Daemon
from gateway.settings import Settings, TelemetrySettings
from gateway.source_settings import SourceSettings

SECRET = "a-secret-that-nobody-reads"
OTHER: dict[str, Any] = {
    "instance": "other",
    "replica": "two",
    "customers": ["globex"],
    "connections_file": "more.yaml",
    "broker": {"url": "mqtt://elsewhere:1883", "password": SECRET, "partitions": 2},
    "database": {"dsn": f"postgresql://u:{SECRET}@db/other", "pool_size": 9},
    "http": {"listen": "127.0.0.1:9999"},
    "telemetry": {"retention": "7d", "max_future": "1m", "sources": [{"topic": "{customer}/{device}/x"}]},
    "credits": {"customer_quota": {"acme": 3}},
    "security": {"encryption_keys": [SECRET]},
    "sync": {"workers": 3, "lease": "20s"},
    "records": {"per_connection": 5},
    "webhooks": {"allow_http": True},
    "egress": {"allow": ["10.0.0.0/8"]},
    "metrics": {"connections": 7},
    "logging": {"level": "debug"},
    "integrator": {"name": "Another", "contact": "help@example.com"},
    "oidc": {
        "issuer": "https://id.example.com",
        "client_id": "x",
        "client_secret": SECRET,
        "roles": {"admin": ["a"]},
    },
    "tracing": {"endpoint": "http://127.0.0.1:4318", "headers": {"x-key": SECRET}},
    "quotas": {"devices": 5, "customers": {"acme": {"messages_per_second": 3}}},
}


def settings(**sections: object) -> Settings:
    return Settings.model_validate(
        {"customers": ["acme"], "security": {"encryption_keys": ["k"]}, **sections}
    )


def paths(tree: dict[str, Any], prefix: str = "") -> set[str]:
    whole = {"credits.customer_quota", "quotas.customers", "oidc.roles", "tracing.headers"}
    found: set[str] = set()
    for key, value in tree.items():
        path = prefix + key
        found |= paths(value, f"{path}.") if isinstance(value, dict) and path not in whole else {path}
    return found


def test_every_section_is_tried() -> None:
    assert set(OTHER) == set(Settings.model_fields)


def test_what_differs_is_put_in_force_or_named_and_no_value_is_shown() -> None:
    before, read = settings(), settings(**OTHER)
    assert set(differing(before, read)) == paths(OTHER)
    named = needing_restart(before, read)
    assert set(named) == paths(OTHER) - RELOADED and SECRET not in str(named)
    after = reloaded(before, read)
    assert set(differing(before, after)) == paths(OTHER) & RELOADED
    assert (after.customers, after.telemetry.sources) == (read.customers, read.telemetry.sources)
    assert needing_restart(after, read) == named and needing_restart(before, before) == []


@pytest.mark.parametrize(
    "running", [{"broker": {"partitions": 4}}, {"broker": {"partitions": 4}, "customers": ["acme", "globex"]}]
)
def test_what_does_not_go_with_the_settings_that_run_is_a_fault(running: dict[str, Any]) -> None:
    overlapping = [{"topic": "{customer}/{device}/x"}, {"topic": "{customer}/{_}/{device...}"}]
    with pytest.raises(Faults, match="overlaps"):
        reloaded(settings(**running), settings(telemetry={"sources": overlapping}))
    with pytest.raises(Faults, match=r"broker\.partitions"):
        reloaded(settings(**running), settings(customers=[], telemetry={"auto_register_customers": True}))


def compiled(*sources: dict[str, Any]) -> Any:
    return compile_sources([SourceSettings.model_validate(source) for source in sources])


def test_the_new_sources_come_first_and_the_old_take_what_they_do_not_match() -> None:
    old = compiled({"topic": "line/{device}/{_}", "customer": "acme", "drop": ["b"]})
    new = compiled({"topic": "line/{device}/out", "customer": "acme"})
    decoder = Decoder(TelemetrySettings(), new, ["acme"], former=FormerIntake(sources=old))
    for _ in range(2):
        assert decoder.decode("line/p/out", b'{"a": 1, "b": 2}', 1)[0][3] == {"a": 1, "b": 2}
        assert not decoder.met_former()
        for _ in range(2):
            assert decoder.decode("line/p/in", b'{"a": 1, "b": 2}', 1)[0][3] == {"a": 1}
        assert decoder.met_former() and not decoder.met_former()
    with pytest.raises(DecodeError, match="unmatched_topic"):
        decoder.decode("mill/p/out", b'{"a": 1}', 1)
    with pytest.raises(DecodeError, match="unmatched_topic"):
        Decoder(TelemetrySettings(), new, ["acme"]).decode("line/p/in", b'{"a": 1}', 1)


def test_a_customer_that_left_is_taken_by_its_own_filters_only() -> None:
    sources = compiled(
        {"topic": "{customer}/devices/{device}"},
        {"topic": "x-{customer}/{device}"},
        {"topic": "all/{device}", "customer": {"path": "who"}},
    )
    decoder = Decoder(
        TelemetrySettings(), sources, ["acme"], former=FormerIntake(customers=frozenset({"globex"}))
    )
    assert decoder.decode("acme/devices/p", b'{"a": 1}', 1) and not decoder.met_former()
    assert decoder.decode("globex/devices/p", b'{"a": 1}', 1)[0][0] == "globex" and decoder.met_former()
    for topic in ("x-globex/p", "all/p", "initech/devices/p"):
        with pytest.raises(DecodeError, match="unknown_customer"):
            decoder.decode(topic, b'{"a": 1, "who": "globex"}', 1)
    assert not decoder.met_former()


@pytest.mark.parametrize("is_ready", [True, False])
async def test_the_http_process_learns_who_the_customers_are(is_ready: bool) -> None:
    """Also before its service is there to be told."""
    ours, theirs = socket.socketpair()
    channel, daemon = await Channel.over(ours), Daemon(await Channel.over(theirs))
    known: list[tuple[str, ...]] = []
    if is_ready:
        daemon.tell_settings(lambda settings: known.append(settings.customers))
    for customers in (("acme",), ("acme", "globex")):
        channel.send({"settings": base64.b64encode(pickle.dumps(settings(customers=customers))).decode()})
    channel.send({"stop": True})
    await asyncio.wait_for(daemon.listen(), 10 * PATIENCE)
    daemon.tell_settings(lambda settings: known.append(settings.customers))
    assert known[0] == (("acme",) if is_ready else ("acme", "globex")) and known[-1] == ("acme", "globex")
    channel.close()
