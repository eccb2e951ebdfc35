"""What is delivered to run the gateway agrees with the gateway: boards, compose, chart, the files that `init`
writes.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from connectors.registry import SYSTEMS
from gateway import metrics
from gateway.cli.main import build
from gateway.configuration import load

ROOT = Path(__file__).parents[2]
BOARDS = sorted((ROOT / "config" / "grafana" / "boards").glob("*.json"))
CHART = ROOT / "deploy" / "helm" / "fieldgate"
HELM = shutil.which("helm")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def labels() -> dict[str, set[str]]:
    """The labels of each name in the exposition."""
    found: dict[str, set[str]] = {}
    for registry in (metrics.REGISTRY, metrics.CONNECTIONS):
        for collector in list(registry._collector_to_names):
            names: tuple[str, ...] = getattr(collector, "_labelnames", ())
            for family in collector.describe() if hasattr(collector, "describe") else collector.collect():
                own = set(names)
                if family.type == "histogram":
                    found |= {f"{family.name}_{suffix}": own for suffix in ("sum", "count")}
                    found[f"{family.name}_bucket"] = own | {"le"}
                else:
                    found[family.name + ("_total" if family.type == "counter" else "")] = own
    return found


LABELS = labels()


def board(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def queries(path: Path) -> Iterator[tuple[str, str]]:
    """Expression and legend of every target."""
    for panel in board(path)["panels"]:
        for target in panel["targets"]:
            yield target["expr"], target["legendFormat"]


# Grafana


def test_there_are_the_four_boards_each_with_a_name_of_its_own() -> None:
    assert [path.stem.removeprefix("fieldgate-") for path in BOARDS] == [
        "connections", "devices", "gateway", "systems",
    ]  # fmt: skip
    for path in BOARDS:
        read = board(path)
        assert read["uid"] == path.stem and read["description"]
        assert len({panel["id"] for panel in read["panels"]}) == len(read["panels"])
        places = [panel["gridPos"] for panel in read["panels"]]
        assert all(place["x"] + place["w"] <= 24 for place in places)
        assert not [
            1
            for a, b in itertools.combinations(places, 2)
            if a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"]
            and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
        ], "no panel covers another"  # fmt: skip


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_board_uses_metrics_and_labels_that_exist(path: Path) -> None:
    used = 0
    for expression, legend in queries(path):
        names = re.findall(r"\bfieldgate_\w+", expression)
        assert names and set(names) <= set(LABELS), expression
        used += len(names)
        known = set().union(*(LABELS[name] for name in names))
        for group in re.findall(r"by \(([^)]*)\)", expression):
            assert {label.strip() for label in group.split(",")} <= known, expression
        for name, matchers in re.findall(r"(fieldgate_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*=~?", matchers)) <= LABELS[name], expression
        shown = set(re.findall(r"\{\{(\w+)\}\}", legend))
        grouped = {
            label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")
        }
        assert shown <= (grouped or known), (expression, legend)
    assert used > 5
    for variable in board(path)["templating"]["list"]:
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])
        assert found and found[2] in LABELS[found[1]] and f"${found[2]}" in path.read_text()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Prometheus")
def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    rules = [
        {
            "record": f"board:query{number}",
            "expr": re.sub(r"\$__rate_interval", "5m", re.sub(r"\"\$\w+\"", '".*"', expression)),
        }
        for number, (expression, _) in enumerate(each for path in BOARDS for each in queries(path))
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yml")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_provisioned_is_what_the_boards_ask_and_compose_mounts() -> None:
    folder = ROOT / "config" / "grafana" / "provisioning"
    [source] = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((folder / "dashboards" / "fieldgate.yaml").read_text())["providers"]
    for path in BOARDS:
        assert set(re.findall(r'"uid": "(prometheus[^"]*)"', path.read_text())) == {source["uid"]}
    mounts = dict(volume.split(":")[:2][::-1] for volume in COMPOSE["services"]["grafana"]["volumes"])
    assert mounts[provider["options"]["path"]] == "./config/grafana/boards"
    assert mounts["/etc/grafana/provisioning"] == "./config/grafana/provisioning"
    assert source["url"] == "http://prometheus:9090"
    home = COMPOSE["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).name in {path.name for path in BOARDS}


def test_prometheus_loads_the_alert_rules_and_asks_every_gateway() -> None:
    read = yaml.safe_load((ROOT / "config" / "prometheus" / "prometheus.yml").read_text())
    assert read["rule_files"] == ["rules.yml"]
    assert COMPOSE["services"]["prometheus"]["volumes"][0].startswith("./config/prometheus:/etc/prometheus")
    asked = json.dumps(read["scrape_configs"])
    gateways = [name for name in COMPOSE["services"] if name.startswith("fieldgate")]
    assert len(gateways) == 2 and all(f'"{name}' in asked for name in gateways)


# compose


def test_profiles_add_and_the_rest_stands_alone() -> None:
    profiles = {name: service.get("profiles", []) for name, service in COMPOSE["services"].items()}
    assert {name for name, each in profiles.items() if not each} == {"mosquitto", "postgres", "fieldgate"}
    assert {each for found in profiles.values() for each in found} == {"demo", "replica", "observability"}
    for service in COMPOSE["services"].values():
        for needed in service.get("depends_on", ()):
            others = profiles[needed]
            assert not others or set(service.get("profiles", ())) <= set(others), "it would not be started"


def test_the_simulated_fleet_is_a_command_that_there_is() -> None:
    [script] = COMPOSE["services"]["simulator"]["command"]
    words = script.split(" exec ")[1].split()
    assert words[:2] == ["fieldgate", "simulate"]
    group: Any = get_command(build(["simulate"]))
    group.commands["simulate"].make_context("simulate", words[2:])
    secret = re.search(r"/run/secrets/(\w+)\)", script)
    assert secret and secret[1] in COMPOSE["services"]["simulator"]["secrets"]


# what `init` writes for compose


class Loader(yaml.SafeLoader):
    """Takes compose's own tags."""


Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))


def test_the_override_is_of_a_service_that_there_is_and_its_variables_are_in_the_env() -> None:
    folder = ROOT / "gateway" / "cli" / "init_files"
    text = (folder / "compose.override.yaml").read_text()
    override = yaml.load(text, Loader)
    assert set(override["services"]) <= set(COMPOSE["services"])
    used = set(
        re.findall(r"\$\{(\w+)", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    )
    assert used == set(re.findall(r"^(\w+)=", (folder / "env").read_text(), re.MULTILINE))
    [mount] = override["services"]["fieldgate"]["volumes"]
    assert mount.endswith(":/etc/fieldgate:ro"), "where the image looks for fieldgate.yaml"


# the chart


def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return found


TEMPLATES = sorted(path for path in (CHART / "templates").iterdir())


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_uses_values_and_helpers_that_exist_and_ends_what_it_begins(path: Path) -> None:
    text = path.read_text()
    for name in re.findall(r"\.Values\.([\w.]+)", text):
        place: Any = values()
        for part in name.split("."):
            assert part in place, name
            place = place[part]
    helpers = set(re.findall(r'define "([\w.]+)"', (CHART / "templates" / "_helpers.tpl").read_text()))
    assert set(re.findall(r'include "([\w.]+)"', text)) <= helpers
    actions = re.findall(r"\{\{-?\s*(\w+)", text)
    assert sum(word in ("if", "with", "range", "define") for word in actions) == actions.count("end")


def test_the_chart_is_of_this_version_and_runs_what_the_image_has() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f'version = "{chart["appVersion"]}"' in (ROOT / "pyproject.toml").read_text()
    deployment = (CHART / "templates" / "deployment.yaml").read_text()
    user = re.search(r"--uid (\d+)", (ROOT / "Dockerfile").read_text())
    assert user and f"runAsUser: {user[1]}" in deployment
    assert "path: /healthz" in deployment and "path: /readyz" in deployment


def test_the_configuration_of_the_chart_is_one(tmp_path: Path) -> None:
    text = yaml.safe_dump(values()["config"])
    mounted = set(re.findall(r"\$\{file:/run/secrets/fieldgate/(\w+)\}", text))
    assert mounted == set(re.findall(r"--from-file=(\w+)", (CHART / "values.yaml").read_text()))
    for name in mounted:
        (tmp_path / name).write_text(
            "postgresql://u:p@db/x"
            if name.endswith("dsn")
            else base64.b64encode(secrets.token_bytes(32)).decode()
        )
    (tmp_path / "fieldgate.yaml").write_text(text.replace("/run/secrets/fieldgate/", f"{tmp_path}/"))
    loaded = load(tmp_path / "fieldgate.yaml", {}, systems=SYSTEMS).settings
    ports = {str(loaded.http.listen).rpartition(":")[2], str(loaded.http.metrics_listen).rpartition(":")[2]}
    deployment = (CHART / "templates" / "deployment.yaml").read_text()
    assert ports == set(re.findall(r"containerPort: (\d+)", deployment))


EVERYTHING = ["ingress.enabled", "podMonitor.enabled", "networkPolicy.enabled"]


@pytest.mark.skipif(HELM is None, reason="helm is not installed: https://helm.sh/docs/intro/install")
@pytest.mark.parametrize("on", [[], EVERYTHING], ids=["as delivered", "everything on"])
def test_helm_makes_what_kubernetes_would_take(on: list[str]) -> None:
    assert HELM is not None
    options = [part for name in on for part in ("--set", f"{name}=true")]
    for command in (["lint", "--strict", str(CHART)], ["template", "r", str(CHART)]):
        done = subprocess.run(
            [HELM, *command, *options], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
    documents = [each for each in yaml.safe_load_all(done.stdout) if each]
    kinds = [each["kind"] for each in documents]
    assert {"ConfigMap", "Deployment", "Service", "ServiceAccount", "PodDisruptionBudget"} <= set(kinds)
    assert ({"Ingress", "PodMonitor", "NetworkPolicy"} <= set(kinds)) is bool(on)
    [deployment] = [each for each in documents if each["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]
    for each in documents:
        if each["kind"] in ("Service", "PodDisruptionBudget"):
            selector = each["spec"]["selector"]
            assert selector.get("matchLabels", selector).items() <= pod["metadata"]["labels"].items()
    [configuration] = [each for each in documents if each["kind"] == "ConfigMap"]
    assert yaml.safe_load(configuration["data"]["fieldgate.yaml"]) == values()["config"]
