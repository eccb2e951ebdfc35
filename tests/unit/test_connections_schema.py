"""The JSON Schema of `connections.yaml`: editors check a system's settings by its own models."""

from __future__ import annotations

import pytest

from connectors.registry import SYSTEMS
from gateway.configuration.schema import _Generator, connections_schema


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_a_definition_of_one_system_is_not_anothers(name: str) -> None:
    own = SYSTEMS[name].settings_model.model_json_schema(by_alias=True, schema_generator=_Generator)
    found = connections_schema(SYSTEMS)["$defs"]
    assert isinstance(found, dict)
    for definition, schema in own.get("$defs", {}).items():
        assert found[definition] == schema
