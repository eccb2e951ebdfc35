"""Logs: one JSON object a line, the standard library's loggers routed in, nothing secret."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog

from gateway import logs
from gateway.settings import LoggingSettings


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield io.StringIO()
    root.handlers[:], root.level = before
    logging.captureWarnings(capture=False)


def test_an_event_is_one_line_of_json(stream: io.StringIO) -> None:
    logs.setup(LoggingSettings(), stream=stream)
    log = structlog.get_logger("anything")
    log.debug("room.hidden")
    log.info("room.told", number=3, text="a\nb")
    [line] = stream.getvalue().splitlines()
    event = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("at"))
    assert event == {"event": "room.told", "level": "info", "number": 3, "text": "a\nb"}


@pytest.mark.parametrize("format", ["json", "console"])
def test_secrets_are_redacted_at_any_depth(stream: io.StringIO, format: str) -> None:
    logs.setup(LoggingSettings.model_validate({"format": format}), stream=stream)
    nested = {"client_secret": "hunter2", "list": [{"api_key": "hunter2"}], "kept": 1}
    structlog.get_logger().info(
        "room.told",
        password="hunter2",
        detail="at mqtt://me:hunter2@broker",
        nested=nested,
        payload=b"hunter2",
    )
    logging.getLogger("uvicorn.error").warning("postgresql://me:hunter2@host")
    assert "hunter2" not in stream.getvalue()
    assert "kept" in stream.getvalue()


@pytest.mark.parametrize(
    "name",
    [
        "password", "passphrase", "client_secret", "access_token", "Authorization", "api_key", "apikey", "private_key",
        "encryption_keys", "credentials", "set_cookie", "dsn", "payload",
    ],
)  # fmt: skip
def test_a_value_of_each_secret_name_is_redacted(stream: io.StringIO, name: str) -> None:
    logs.setup(LoggingSettings(), stream=stream)
    structlog.get_logger().info("room.told", **{name: "hunter2"}, nested={"deeper": [{name: "hunter2"}]})
    assert "hunter2" not in stream.getvalue() and stream.getvalue().count(logs.REDACTED) == 2


def test_other_names_are_not(stream: io.StringIO) -> None:
    logs.setup(LoggingSettings(), stream=stream)
    structlog.get_logger().info("room.told", payload_bytes=17, keyed="seen")
    assert logs.REDACTED not in stream.getvalue() and "seen" in stream.getvalue()


def test_libraries_are_routed_in(stream: io.StringIO) -> None:
    logs.setup(LoggingSettings(), stream=stream)
    logging.getLogger("uvicorn.error").info("chatter")
    logging.getLogger("uvicorn.error").error("%s failed", "it")
    [line] = stream.getvalue().splitlines()
    event = json.loads(line)
    assert (event["event"], event["text"], event["level"]) == (
        "library.uvicorn_error_logged",
        "it failed",
        "error",
    )


def test_a_pool_whose_database_is_away_fills_no_log_with_tracebacks(stream: io.StringIO) -> None:
    logs.setup(LoggingSettings(level="debug"), stream=stream)
    logging.getLogger("asyncpg.pool").warning("Failed to restore the pool connection floor; retrying")
    assert stream.getvalue() == ""


def test_an_exception_keeps_its_traceback(stream: io.StringIO) -> None:
    logs.setup(LoggingSettings(), stream=stream)
    try:
        raise ValueError("why")
    except ValueError:
        structlog.get_logger().exception("room.crashed")
    assert "ValueError: why" in json.loads(stream.getvalue())["exception"]
