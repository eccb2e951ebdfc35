"""What a load needs, at fixed points that can be worked out by hand, and by laws that any costs obey."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.capacity import (
    COMMAND,
    PAGE,
    USED,
    Cost,
    Costs,
    Load,
    Need,
    by_metrics,
    carried,
    need,
    tables,
)
from benchmarks.page import between

COSTS = Costs(
    message=Cost(daemon=10, database=20, broker=5),
    small_batch=Cost(daemon=50, database=100),
    small_batch_rate=1000,
    reading=Cost(daemon=40, database=100),
    connection=Cost(daemon=100, database=50),
    connection_bytes=50_000,
    device_bytes=1_000,
    daemon_bytes=150e6,
    sample_bytes={1: 200, 3: 250, 30: 1_060},
    wal_bytes={1: 400, 3: 500},
)


def test_a_fleet_by_hand() -> None:
    load = Load(
        devices=90_000, interval=60, metrics=3, connections=100, meters=1, window=900, retention_days=30
    )
    assert (load.messages, load.readings) == (1500, 100)
    found = need(load, COSTS)
    assert found.daemon_cores == pytest.approx(1500 * 10e-6 + 1000 * 50e-6 + 100 * 40e-6 + 100 * 100e-6)
    assert found.database_cores == pytest.approx(1500 * 20e-6 + 1000 * 100e-6 + 100 * 100e-6 + 100 * 50e-6)
    assert found.broker_cores == pytest.approx(0.0075)
    assert (found.replicas, found.cells) == (1, 1)
    assert found.replica_bytes == 150e6 + 90_000 * 1_000 + 100 * 50_000
    assert found.disk_bytes == pytest.approx((1500 * 250 + 100 * 200) * 86_400 * 30 * 1.1)
    assert found.wal_bytes_a_day == 1500 * 500 * 86_400


def test_one_device_needs_one_of_everything() -> None:
    found = need(Load(devices=1), COSTS)
    assert (found.replicas, found.cells) == (1, 1) and found.cores < 0.001


def test_a_daemon_uses_one_core_and_a_broker_one() -> None:
    load = Load(devices=100_000, interval=1, window=1e9, connections=0, cores=64)
    found = need(load, COSTS)
    assert found.daemon_cores == pytest.approx(1.05) and found.replicas == 2 and found.cells == 1
    broker = need(replace(load, devices=200_000), COSTS)
    assert broker.broker_cores == pytest.approx(1.0) and broker.cells == 2  # not by its 64 cores


def test_readings_are_no_more_than_messages() -> None:
    assert Load(devices=10, interval=3600, window=60).readings == 10 / 3600


@pytest.mark.parametrize(("metrics", "bytes_"), [(1, 200), (2, 225), (3, 250), (30, 1_060), (31, 1_090)])
def test_bytes_lie_on_the_line_between_what_was_measured(metrics: int, bytes_: float) -> None:
    assert by_metrics(COSTS.sample_bytes, metrics) == pytest.approx(bytes_)


@given(st.integers(1, 10_000_000), st.floats(0.1, 86_400), st.integers(0, 5_000), st.sampled_from([2, 8, 32]))
def test_more_needs_more(devices: int, interval: float, connections: int, cores: int) -> None:
    load = Load(devices=devices, interval=interval, connections=connections, cores=cores)
    less, more = need(load, COSTS), need(replace(load, devices=devices * 2), COSTS)
    for name in ("daemon_cores", "database_cores", "broker_cores", "disk_bytes", "replicas", "cells"):
        assert getattr(less, name) <= getattr(more, name), name
    _is_enough(less, load)
    _is_enough(more, load)


def _is_enough(found: Need, load: Load) -> None:
    slack = 1 + 1e-9
    assert found.cores <= found.cells * load.cores * USED * slack
    assert found.daemon_cores <= found.replicas * USED * slack
    assert found.broker_cores <= found.cells * USED * slack


@pytest.mark.parametrize("cores", [2, 8, 32])
def test_a_cell_carries_so_many_and_no_more(cores: int) -> None:
    load = Load(devices=1000, cores=cores)
    most = carried(load, COSTS)
    assert need(replace(load, devices=most, connections=-(-most // 1000)), COSTS).cells == 1
    over = most + 1
    assert need(replace(load, devices=over, connections=-(-over // 1000)), COSTS).cells == 2


def test_what_was_not_measured_counts_as_nothing_and_is_named() -> None:
    load = Load(devices=90_000, connections=100)
    unknown = replace(COSTS, connection=None, connection_bytes=None, device_bytes=None)
    nothing = replace(COSTS, connection=Cost(daemon=0, database=0), connection_bytes=0, device_bytes=0)
    assert need(load, unknown) == need(load, nothing)
    assert "not measured" in tables(unknown) and "not measured" not in tables(nothing).lower()


def test_the_page_is_made_of_the_committed_results() -> None:
    page, costs = PAGE.read_text(), Costs.measured()
    assert page == between(page, COMMAND, tables(costs)), COMMAND
    assert page != between(page, COMMAND, tables(replace(costs, daemon_bytes=costs.daemon_bytes * 2)))
