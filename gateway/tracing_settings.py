"""`tracing`: traces of what the gateway does, for OpenTelemetry. (`telemetry` is what devices send.)"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from gateway.settings_base import Section

Share = Annotated[float, Field(ge=0, le=1)]


class TracingSettings(Section):
    """`endpoint` none: off. `sample` and `ingest_sample`: of which share of runs and requests, and of batches
    of telemetry, a trace is kept.
    """

    endpoint: str | None = None
    headers: dict[str, SecretStr] = Field({})
    sample: Share = 1.0
    ingest_sample: Share = 0.01

    @field_validator("endpoint")
    @classmethod
    def _address(cls, endpoint: str | None) -> str | None:
        expected = "expected http://host:4318 or https://host of a collector, without user, query or fragment"
        if endpoint is None:
            return None
        try:
            parts = urlsplit(endpoint)
            port = parts.port
        except ValueError:
            raise ValueError(expected) from None
        if (
            not endpoint.isascii()
            or not endpoint.isprintable()
            or " " in endpoint
            or parts.scheme not in ("http", "https")
            or not parts.hostname
            or port == 0
            or parts.username
            or parts.password
            or parts.query
            or parts.fragment
        ):
            raise ValueError(expected)
        endpoint = endpoint.rstrip("/")
        if endpoint.endswith("/v1/traces"):
            raise ValueError("leave /v1/traces out: it is added")
        return endpoint

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            text = value.get_secret_value()
            if not name.isascii() or not name.replace("-", "").isalnum():
                raise ValueError(f"{name[:40]!r} is no name of a header")
            if not text.isascii() or not text.isprintable() or text != text.strip():
                raise ValueError(f"{name}: has a character that a header cannot hold")
        return headers
