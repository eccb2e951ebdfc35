"""Marks, codes, and the router: what of cells needs no server."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from benchmarks.servers import PATIENCE, accepts, free_port, wait_until
from gateway.cells import router, survey
from gateway.cells.survey import CellAnswer, CellSettings
from gateway.ingest.decode import Decoder
from gateway.model.errors import ConfigError
from gateway.model.moving import MARK, Moves, MoveStage, code, move_of, topics
from gateway.model.subscriptions import matches
from gateway.payloads import presets
from gateway.payloads.sources import SourceError, compile_sources, only
from gateway.settings import TelemetrySettings
from gateway.source_settings import DEFAULT_SOURCES, SourceSettings

ODD = (
    SourceSettings(topic="site/{customer}/line-{device}/out/{metric...}", format="scalar"),
    SourceSettings(topic="plant/{device}/x", customer="acme"),
    SourceSettings(topic="{customer}/{_}/a{_}b/{device...}"),
    SourceSettings.model_validate({"topic": "line/{device}/x", "customer": {"path": "c"}}),
)


def sources() -> Iterator[tuple[str, list[SourceSettings]]]:
    yield "default", [*DEFAULT_SOURCES]
    for source in ODD:
        yield str(source.topic), [source]
    for name in presets.names():
        yield name, [usable(name)]


def usable(preset: str) -> SourceSettings:
    """With what its topics do not name, and no more."""
    zone = {"zone": "Europe/Berlin"}
    acme = {"customer": "acme"}
    for more in ({}, {"time": zone}, acme, {**acme, "time": zone}, {**acme, "device": "press"}):
        settings = SourceSettings.model_validate({"preset": preset, **more})
        try:
            compile_sources([settings])
        except SourceError:
            continue
        return settings
    raise AssertionError(f"{preset} needs something else")


@pytest.mark.parametrize(("name", "given"), list(sources()), ids=[name for name, _ in sources()])
def test_a_mark_comes_by_the_filter_that_it_is_for_and_is_the_customers(
    name: str, given: list[SourceSettings]
) -> None:
    compiled = compile_sources(given)
    telemetry = TelemetrySettings(sources=tuple(given))
    decoder = Decoder(telemetry, compiled, ("acme",), defers_sparkplug=True)
    for source in only(compiled):
        made = topics([source], "acme", "1a2b")
        is_theirs = source.is_divided or source.customer == "acme"
        if not is_theirs or not {"+", "#"} & {*source.filter("acme")}:
            assert made == []
            continue
        assert len(made) == 1
        assert MARK in made[0] and matches(made[0], source.filter("acme"))
        assert decoder.customer_of(made[0]) == "acme"


def test_what_moved_overrules_what_is_configured() -> None:
    moves = Moves(here=frozenset({"new", "acme"}), away=frozenset({"old"}))
    assert moves.among(("acme", "old", "globex")) == ("acme", "globex", "new")
    assert Moves().among(("b", "a")) == ("b", "a")


def test_a_code_says_one_thing_of_one_customer() -> None:
    made = code(MoveStage.EXPECTED, "acme", "1a2b3c4d")
    assert move_of(f" {made}\n", MoveStage.EXPECTED, "acme") == "1a2b3c4d"
    for stage in MoveStage:
        for customer in ("acme", "globex"):
            expected = "1a2b3c4d" if (stage, customer) == (MoveStage.EXPECTED, "acme") else None
            assert move_of(made, stage, customer) == expected
    assert move_of("", MoveStage.EXPECTED, "acme") is None


def answer(name: str, url: str, connections: dict[str, str], customers: tuple[str, ...] = ()) -> CellAnswer:
    cell = CellSettings(name=name, url=url, token_file="token", customers=customers)
    return CellAnswer(cell=cell, states={}, connections=connections)


def test_a_router_is_made_of_whole_answers_only() -> None:
    good = answer("a", "http://127.0.0.1:1", {"one": "acme"})
    silent = CellAnswer(cell=good.cell, fault="refused", states={}, connections={})
    with pytest.raises(ConfigError, match="refused"):
        router.make([silent], bind=":80")
    with pytest.raises(ConfigError, match="in the cells a and b"):
        router.make([good, answer("b", "http://127.0.0.1:2", {}, ("acme",))], bind=":80")


def haproxy() -> str:
    found = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        pytest.skip("haproxy is not installed")
    return found


class Named(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = self.server.name.encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def named() -> Iterator[dict[str, str]]:
    servers = []
    for name in ("a", "b"):
        server = HTTPServer(("127.0.0.1", 0), Named)
        server.name = name  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
    yield {server.name: f"http://127.0.0.1:{server.server_port}" for server in servers}  # type: ignore[attr-defined]
    for server in servers:
        server.shutdown()
        server.server_close()


async def test_haproxy_takes_the_router_and_leads_by_customer(tmp_path: Path, named: dict[str, str]) -> None:
    program, port = haproxy(), free_port()
    made = router.make(
        [
            answer("a", named["a"], {"acme-cmms": "acme"}),
            answer("b", named["b"], {"globex-erp": "globex"}, ("initech",)),
        ],
        bind=f"127.0.0.1:{port}",
    )
    for name, text in made.contents.items():
        (tmp_path / name).write_text(text)
    checked = subprocess.run(
        [program, "-c", "-f", "haproxy.cfg"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "warning" not in checked.stderr.lower(), checked.stderr
    process = subprocess.Popen(
        [program, "-f", "haproxy.cfg"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await wait_until(lambda: accepts(port), seconds=20, what="the router listens")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10 * PATIENCE) as client:
            for path, headers, cell in (
                ("/v1/connections?customer=acme", {}, "a"),
                ("/v1/connections?customer=initech", {}, "b"),
                ("/v1/events", {"Fieldgate-Customer": "globex"}, "b"),
                ("/v1/devices/globex/pump", {}, "b"),
                ("/v1/connections/acme-cmms/status", {}, "a"),
                ("/v1/connections/globex-erp", {}, "b"),
                ("/v1/events", {}, None),
                ("/v1/events", {"Fieldgate-Customer": "nobody"}, None),
                ("/v1/connections/acme-cmms", {"Fieldgate-Customer": "nobody"}, None),
            ):
                found = await client.get(path, headers=headers)
                assert (found.text if found.status_code == 200 else None) == cell, (path, headers, found.text)
                if cell is None:
                    assert found.status_code == 404 and json.loads(found.text)["title"] == "No cell"
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


def test_a_cell_that_does_not_answer_stops_no_other(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    (tmp_path / "cells.yaml").write_text(
        f"cells: [{{name: a, url: 'http://127.0.0.1:{port}', token_file: a.token}}, {{name: b, url: 'http://127.0.0.1:{port}', token_file: none}}]"
    )
    (tmp_path / "a.token").write_text("x")
    found = asyncio.run(survey.ask_all(survey.read_file(tmp_path / "cells.yaml"), tmp_path))
    assert [one.cell.name for one in found] == ["a", "b"] and all(one.fault for one in found)


@pytest.mark.parametrize(
    "text",
    ["cells: []", "cells: [{name: a}]", "cells: [{name: a, url: 'ftp://x', token_file: t}]", "x: 1", "cells: [{name: a, url: 'http://u:p@h', token_file: t}]",
     "cells: [{name: a, url: 'http://h', token_file: t}, {name: a, url: 'http://i', token_file: t}]"],
)  # fmt: skip
def test_a_file_that_cannot_be_used_says_what_is_wrong(tmp_path: Path, text: str) -> None:
    (tmp_path / "cells.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"cells\.yaml"):
        survey.read_file(tmp_path / "cells.yaml")
