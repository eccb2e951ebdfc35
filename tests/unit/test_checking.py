"""What is checked of a connection before it is stored, where that takes long."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from gateway.connections import checking
from gateway.connections.checking import MANY, Checking
from gateway.connections.screening import Screening
from gateway.meter_settings import MeterSettings
from gateway.model.access import Caller
from gateway.settings import ConnectionSettings, CredentialSettings, Settings


class Anywhere:
    async def check(self, *_: object, **__: object) -> None:
        """Every address may be called."""


def large(customer: str, number: int) -> ConnectionSettings:
    meter = MeterSettings(device="d", metric="t", meter="{device}")
    return ConnectionSettings(
        id=f"{customer}-{number}",
        customer=customer,
        system="scripted",
        credentials=CredentialSettings(),
        meters=(meter,) * (MANY + 1),
    )


async def test_large_connections_of_one_customer_keep_another_waiting_for_one_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []

    def slow(wanted: ConnectionSettings, **_: Any) -> ConnectionSettings:
        time.sleep(0.02)
        order.append(wanted.customer)
        return wanted

    monkeypatch.setattr(checking, "check", slow)
    checks = Checking({}, cast("Settings", None), cast("Screening", Anywhere()))

    async def check(customer: str, number: int) -> None:
        await checks.new(large(customer, number), Caller(name="test"), credentials=False)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(check("acme", number))
        group.create_task(check("globex", 0))
    assert order.index("globex") <= 1, order
