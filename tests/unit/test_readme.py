"""README and samples: what a reader copies is valid."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from gateway.settings import ConnectionSettings, Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def with_secrets(text: str) -> object:
    """The sample with each secret's reference replaced by a value."""
    return yaml.safe_load(re.sub(r"\$\{(?:env|file):[^}]+\}", "postgresql://secret", text))


@pytest.mark.parametrize(
    "text", [(ROOT / "config" / "fieldgate.yaml").read_text(), (ROOT / "config" / "fieldgate.compose.yaml").read_text(), blocks("yaml")[0]]
)
def test_gateway_samples_are_valid(text: str) -> None:
    Settings.model_validate(with_secrets(text))


@pytest.mark.parametrize("text", [(ROOT / "config" / "connections.example.yaml").read_text(), blocks("yaml")[1]])
def test_connection_samples_are_valid(text: str) -> None:
    document = with_secrets(text)
    assert isinstance(document, dict)
    connections = [ConnectionSettings.model_validate(connection) for connection in document["connections"]]
    assert connections and all(connection.meters for connection in connections)


def test_the_sample_shows_the_defaults() -> None:
    """Except what it says is not: `instance`, the broker's address and user, customers, secrets."""
    sample = Settings.model_validate(with_secrets((ROOT / "config" / "fieldgate.yaml").read_text()))
    default = Settings.model_validate({"security": {"encryption_keys": ["k"]}})
    for model in (shown := sample.model_dump(), standard := default.model_dump()):
        for section, keys in {"broker": ("url", "username", "password"), "database": ("dsn",)}.items():
            for key in keys:
                del model[section][key]
        for key in ("instance", "customers", "security"):
            del model[key]
    assert shown == standard


def test_the_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE)) == {"demo", "test"}
    assert {"demo", "test", "check", "bench", "soak", "format", "clean", "env"} <= targets


def test_the_payloads_are_json() -> None:
    payloads = re.findall(r"'(\{.*\})'", "\n".join(blocks("sh")))
    assert len(payloads) == 2
    for payload in payloads:
        json.loads(payload)


def test_make_says_what_it_offers() -> None:
    listed = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert {"demo", "test", "check", "bench", "soak"} <= {line.split()[0] for line in listed.splitlines()}


def test_shell_scripts_parse() -> None:
    for script in (".ci/run", "mosquitto/provision"):
        subprocess.run(["bash", "-n", script], cwd=ROOT, check=True, timeout=30)
