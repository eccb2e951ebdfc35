"""Every connector's harness: the contract suite runs for each."""

from __future__ import annotations

from tests.contract.harness import Harness, MaintainXHarness, PostgresHarness
from tests.contract.http_json_harness import HttpJsonHarness, HttpJsonOpaqueHarness, HttpJsonSinglyHarness
from tests.contract.odata_harness import ODataHarness, ODataJsonHarness
from tests.contract.sap_harness import EccHarness, S4hanaHarness
from tests.contract.tryton_harness import TrytonHarness

HARNESSES: tuple[type[Harness], ...] = (
    MaintainXHarness,
    PostgresHarness,
    S4hanaHarness,
    EccHarness,
    TrytonHarness,
    HttpJsonHarness,
    HttpJsonOpaqueHarness,
    HttpJsonSinglyHarness,
    ODataHarness,
    ODataJsonHarness,
)
