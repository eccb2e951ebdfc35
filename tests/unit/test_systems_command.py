"""`fieldgate systems`: of every system, all that its forms ask for, and a connection that can be copied."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from connectors.registry import SYSTEMS
from gateway.cli.main import build
from gateway.model.errors import RequestRefused


def printed(*words: str) -> str:
    done = CliRunner().invoke(build(["systems"]), ["systems", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_every_system_is_listed_with_how_to_log_in() -> None:
    listed = printed("list")
    for name, system in SYSTEMS.items():
        (line,) = [line for line in listed.splitlines() if line.startswith(f"{name} ")]
        assert system.manifest.title in line and ", ".join(system.manifest.capabilities.auth) in line
    assert {one["system"] for one in json.loads(printed("list", "--json"))} == set(SYSTEMS)


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_a_system_is_shown_with_every_setting_and_a_connection_to_copy(name: str) -> None:
    system, shown = SYSTEMS[name], printed("show", name)
    head, _, sample = shown.partition("a connection, for connections.yaml\n")
    fields = {field.alias or name for name, field in system.settings_model.model_fields.items()}
    shown_settings = head.partition("\nsettings\n")[2].partition("\ncredentials")[0]
    for field in fields - {field for field in fields if field.endswith("_file")}:
        assert f"  {field}" in shown_settings, field
    for kind in system.manifest.capabilities.auth:
        assert f"credentials: {kind}\n" in head
    (connection,) = yaml.safe_load(sample)["connections"]
    assert connection["system"] == name
    assert json.loads(printed("show", name, "--json"))["credentials"] == list(
        system.manifest.capabilities.auth
    )


def test_a_system_that_there_is_not_is_answered_with_what_is_near() -> None:
    with pytest.raises(RequestRefused, match="did you mean 'tryton'"):
        printed("show", "triton")
    with pytest.raises(RequestRefused, match="there are http_json, "):
        printed("show", "zzz")
