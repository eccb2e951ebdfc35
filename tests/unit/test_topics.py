"""Topics: templates, filters, routes, overlaps, partitions."""

from __future__ import annotations

from itertools import chain, product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.model.topics import (
    Source,
    TemplateError,
    compile_source,
    filters,
    is_sparkplug,
    overlapping,
    owner_of,
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
        ("$share/group/{customer}/{device}", "json", "no wildcard"),
        ("{customer}/+/{device}", "json", "no wildcard"),
        ("{customer}/{device}/#", "json", "no wildcard"),
        ("{customer}/{device}\0", "json", "no wildcard"),
        ("{customer}/{site}/{device}", "json", "none of"),
        ("{customer}/{device", "json", "must be a literal"),
        ("{customer}/x}{device}", "json", "must be a literal"),
        ("{customer}{device}", "json", "between two fields"),
        ("{customer}/x{device...}", "json", "stands alone"),
        ("{customer...}/{device}", "json", "not the customer"),
        ("{customer}/telemetry", "json", "which device"),
        ("{device}/telemetry", "json", "which customer"),
        ("{customer}/{device}/{device}", "json", "twice"),
        ("{customer}/{device}", "scalar", "no name of its own"),
    ],
)
def test_a_template_that_cannot_work_is_refused(topic: str, format: str, says: str) -> None:
    with pytest.raises(TemplateError, match=says):
        compile_source(topic, format)


@pytest.mark.parametrize(
    ("template", "topic", "fields"),
    [
        ("/{customer}/x{device}", "/acme/x7", {"customer": "acme", "device": "7"}),
        ("$bridge/{customer}/{device}", "$bridge/acme/p", {"customer": "acme", "device": "p"}),
        (
            "v3/{_}@{customer}/devices/{device}/up",
            "v3/app@acme/devices/p/up",
            {"customer": "acme", "device": "p"},
        ),
        (
            "{customer}/{device}/{metric...}",
            "acme/p/a/b/c",
            {"customer": "acme", "device": "p", "metric": "a/b/c"},
        ),
        (
            "{customer}/{device...}/_h/{metric...}",
            "acme/a/b/_h/c/d",
            {"customer": "acme", "device": "a/b", "metric": "c/d"},
        ),
        ("{customer}/{_...}/{device}", "acme/a/b/p", {"customer": "acme", "device": "p"}),
        ("{customer}/{device}.{metric}", "acme/p.t", {"customer": "acme", "device": "p", "metric": "t"}),
        ("{customer}/{device}", "acme/a/b", None),
        ("{customer}/{device}", "acme/p\n", {"customer": "acme", "device": "p\n"}),
    ],
)
def test_fields_are_levels_parts_of_levels_and_whole_ends(
    template: str, topic: str, fields: dict[str, str] | None
) -> None:
    source = compile_source(template, "json")
    assert source.match(topic) == fields


@pytest.mark.parametrize(
    ("template", "filter"),
    [
        ("/{customer}/x{device}", "/+/+"),
        ("{customer}/{device}/{metric...}", "+/+/#"),
        ("{customer}/{device...}/_h/{metric...}", "+/#"),
        ("v3/{_}@{customer}/devices/{device}/up", "v3/+/devices/+/up"),
    ],
)
def test_a_filter_takes_all_that_the_template_matches(template: str, filter: str) -> None:
    assert compile_source(template, "json").filter(None) == filter


def test_customer_and_device_are_said_once() -> None:
    with pytest.raises(TemplateError, match="more than once"):
        compile_source("{customer}/{device}", "json", customer="acme")
    with pytest.raises(TemplateError, match="more than once"):
        compile_source("x/{device}", "json", from_payload=["customer", "device"])
    found = route("x/p", [compile_source("x/{device}", "json", customer="acme", ignored=["*/q"])])
    assert found is not None and (found.customer, found.device, found.is_ignored) == ("acme", "p", False)
    ignored = route("x/q", [compile_source("x/{device}", "json", customer="acme", ignored=["*/q"])])
    assert ignored is not None and ignored.is_ignored


def test_a_source_that_no_customer_divides_belongs_to_one_partition() -> None:
    sources = [compile_source("tele/{device}/SENSOR", "json", customer="acme"), *compiled(JSON)]
    shares = [filters(sources, ["acme", "globex"], partition=number, partitions=4) for number in range(4)]
    assert sorted(chain.from_iterable(shares)) == [
        "acme/devices/+/telemetry",
        "globex/devices/+/telemetry",
        "tele/+/SENSOR",
    ]


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
        ("{customer}/{device}/{metric...}", "{customer}/{device}/a/b", True),
        ("{customer}/{device...}/_h", "{customer}/{device...}/_raw", False),
        ("{customer}/{device...}/_h/{metric...}", "{customer}/{device...}/_raw/{metric...}", False),
        ("{customer}/{device...}/_h/{metric...}", "{customer}/{device...}/_h/{metric...}", True),
        ("{customer}/{device...}/_h/{metric...}", "{customer}/a/{device}", True),
        ("{customer}/x{device}", "{customer}/y/{device}", False),
        ("{customer}/x{device}", "{customer}/xy/{device}", False),
        ("a/{customer}/x{device}", "a/{customer}/xy{device}", False),
        ("{customer}/x{device}/a", "{customer}/y{device}/b", False),
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
    """Another hash would leave the queue of the old partition's session to a replica
    that does not expect it.
    """
    assert [partition_of(customer, 8) for customer in ("acme", "globex", "initech", "umbrella")] == [
        1,
        2,
        0,
        2,
    ]


LEVELS = st.sampled_from(["a", "b", "{device}", "x{device}", "{device}x", "{_}", "{device...}", "{_...}"])
TOPICS = [
    "/".join(topic) for length in range(1, 5) for topic in product(["a", "b", "y", "xa", "xx"], repeat=length)
]


@settings(max_examples=300)
@given(*[st.lists(LEVELS, min_size=1, max_size=4).map("/".join)] * 2)
@example("a/{device...}/xa", "{_}/{device...}/y")
@example("a/{device...}/x{_}", "{_}/{device...}/xa")
@example("a/{device...}", "{_}/{device...}/y")
@example("a/{device...}/y", "{_}/{device...}")
def test_what_one_topic_could_match_twice_is_found(first: str, second: str) -> None:
    """By trying topics. Two templates of one filter are one subscription, unless they are the same."""
    try:
        one, two = (compile_source(topic, "json", customer="acme") for topic in (first, second))
    except TemplateError:
        return
    both = any(one.match(topic) is not None and two.match(topic) is not None for topic in TOPICS)
    if both and (first == second or one.filter(None) != two.filter(None)):
        assert overlapping([one, two]) == [(one, two)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a/{device...}/x", "{_}/{device...}/y"),
        ("a/{device...}/x", "{_}/{device}/y"),
        ("a/{device}/x", "{_}/{device...}/y"),
        ("a/{device...}", "b/{device...}/y"),
        ("{_}/a/{device}", "{device}/b/{_...}"),
    ],
)
def test_what_differs_at_its_end_or_before_overlaps_nothing(first: str, second: str) -> None:
    one, two = (compile_source(topic, "json", customer="acme") for topic in (first, second))
    assert overlapping([one, two]) == [] and overlapping([two, one]) == []


@pytest.mark.parametrize(
    ("pattern", "is_one"),
    [
        ("spBv1.0/group/#", True),
        ("spBv1.0/+/#", True),
        ("plant/spBv1.0/+/#", True),
        ("spBv1.0/group/x", False),
        ("spBv1.0/#", False),
        ("spBv1.0/a/b/#", False),
        ("a/b/#", False),
        ("#", False),
    ],
)
def test_a_filter_of_sparkplug_has_the_group_and_all_behind_it(pattern: str, is_one: bool) -> None:
    assert is_sparkplug(pattern) is is_one


DIVIDED = compile_source("{customer}/{device}", "json")
OF_ACME = compile_source("acme/x/{device}", "json", customer="acme")
OF_ANYBODY = compile_source("any/x/{device}", "json", from_payload=["customer"])


@pytest.mark.parametrize("partitions", [1, 2, 8])
@pytest.mark.parametrize(
    "sources", [[DIVIDED], [OF_ACME], [OF_ANYBODY], [DIVIDED, OF_ACME], [DIVIDED, OF_ANYBODY], [DIVIDED, OF_ACME, OF_ANYBODY]]
)  # fmt: skip
@pytest.mark.parametrize(
    "customers", [[], ["acme"], ["globex"], ["acme", "globex"], ["initech", "umbrella", "globex"]]
)
def test_a_partition_is_somebodys_where_nobody_elses_messages_come_by_it(
    sources: list[Source], customers: list[str], partitions: int
) -> None:
    """By looking at whose messages could come by each partition."""
    for partition in range(partitions):
        whose: set[str] = {
            customer for customer in customers if partition_of(customer, partitions) == partition
        }
        for source in sources:
            if source is OF_ACME and partition_of("acme", partitions) == partition:
                whose.add("acme")
            if source is OF_ANYBODY and partition_of(source.topic, partitions) == partition:
                whose.update(customers)
        expected = next(iter(whose)) if len(whose) == 1 else None
        assert owner_of(sources, customers, partition=partition, partitions=partitions) == expected
