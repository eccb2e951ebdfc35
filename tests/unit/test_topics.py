"""Topics: templates, filters, routes, overlaps, partitions."""

from __future__ import annotations

import pytest

from gateway.model.topics import (
    Source,
    TemplateError,
    compile_source,
    filters,
    overlapping,
    partition_of,
    route,
)

JSON = "{customer}/devices/{device}/telemetry"
SCALAR = "{customer}/devices/{device}/telemetry/{metric}"


def compiled(*topics: str) -> list[Source]:
    return [compile_source(topic, "scalar" if "{metric}" in topic else "json") for topic in topics]


@pytest.mark.parametrize(
    ("topic", "format", "says"),
    [
        ("", "json", "literal levels"),
        ("/{customer}/{device}", "json", "does not begin with /"),
        ("$SYS/{customer}/{device}", "json", r"\$"),
        ("{customer}/+/{device}", "json", "no wildcard"),
        ("{customer}/{device}/#", "json", "no wildcard"),
        ("{customer}/{device}\0", "json", "no wildcard"),
        ("{customer}/x{device}", "json", "alone"),
        ("{customer}/{site}/{device}", "json", "alone"),
        ("{customer}/telemetry", "json", "each once"),
        ("{customer}/{device}/{device}", "json", "each once"),
        ("{customer}/{device}/{metric}", "json", "only to it"),
        ("{customer}/{device}", "scalar", "only to it"),
    ],
)
def test_a_template_that_cannot_work_is_refused(topic: str, format: str, says: str) -> None:
    with pytest.raises(TemplateError, match=says):
        compile_source(topic, format)


def test_a_filter_has_a_wildcard_for_each_field_and_the_customer_where_one_is_given() -> None:
    source = compile_source("plant/" + SCALAR, "scalar")
    assert source.filter(None) == "plant/+/devices/+/telemetry/+"
    assert source.filter("acme") == "plant/acme/devices/+/telemetry/+"


def test_a_route_names_customer_device_and_metric() -> None:
    sources = compiled(JSON, SCALAR)
    found = route("acme/devices/pump/telemetry", sources)
    assert found is not None
    assert (found.customer, found.device, found.metric, found.format) == ("acme", "pump", None, "json")
    found = route("acme/devices/pump/telemetry/rpm", sources)
    assert found is not None
    assert (found.customer, found.device, found.metric, found.format) == ("acme", "pump", "rpm", "scalar")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "acme",
        "acme/devices/pump/status",
        "acme/devices/pump/telemetry/a/b",
        "/acme/devices/pump/telemetry",
    ],
)
def test_other_topics_have_no_route(topic: str) -> None:
    assert route(topic, compiled(JSON, SCALAR)) is None


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        (JSON, SCALAR, False),
        (JSON, "{customer}/gateways/{device}/telemetry", False),
        (JSON, "{customer}/{device}/a/telemetry", True),
        ("a/{customer}/{device}", "{customer}/{device}/b", True),
        ("a/{customer}/{device}", "b/{customer}/{device}", False),
    ],
)
def test_overlapping_sources_are_found(first: str, second: str, overlap: bool) -> None:
    assert bool(overlapping(compiled(first, second))) is overlap


def test_partitions_divide_the_customers_and_one_partition_takes_all() -> None:
    sources, customers = compiled(JSON, SCALAR), [f"customer-{number}" for number in range(200)]
    assert filters(sources, customers, partition=0, partitions=1) == [
        "+/devices/+/telemetry",
        "+/devices/+/telemetry/+",
    ]
    shares = [set(filters(sources, customers, partition=number, partitions=4)) for number in range(4)]
    assert set().union(*shares) == {source.filter(customer) for source in sources for customer in customers}
    assert sum(map(len, shares)) == 400 and min(map(len, shares)) > 40


def test_the_partition_of_a_customer_never_changes() -> None:
    """Another hash would leave the queue of the old partition's session to a replica that does not expect it."""
    assert [partition_of(customer, 8) for customer in ("acme", "globex", "initech", "umbrella")] == [
        1,
        2,
        0,
        2,
    ]
