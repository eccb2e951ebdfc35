"""What may be set for MaintainX, and the credential it needs."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from connectors.kit.settings import Block

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class MaintainXSettings(Block):
    """`settings` of a connection to MaintainX."""

    base_url: str = Field("https://api.getmaintainx.com/v1", description="The API's address, version included; https, or http on this machine.")
    organization_id: int | None = Field(None, ge=1, description="For a key that serves several organizations.")
    max_items: int = Field(200, ge=1, le=1000, description="Readings in one request.")
    skip_webhook: bool = Field(False, description="Do not fire MaintainX webhooks for these readings.")

    @field_validator("base_url")
    @classmethod
    def _is_safe(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query or parts.fragment or not parts.hostname:
            raise ValueError("expected https://host/path, without user, query or fragment")
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise ValueError("the API key must not travel in clear: use https")
        return url.rstrip("/")


class MaintainXCredentials(Block):
    """`credentials` of a connection to MaintainX."""

    api_key: SecretStr = Field(min_length=1, description="A REST API key: Settings > Integrations in MaintainX.")
