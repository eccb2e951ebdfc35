"""What may be set for MaintainX, and the credential it needs."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator

from connectors.kit.credentials import Credentials
from connectors.kit.settings import Block, safe_url


class MaintainXSettings(Block):
    """`settings` of a connection to MaintainX."""

    base_url: str = Field(
        "https://api.getmaintainx.com/v1",
        description="The API's address, version included; https, or http on this machine.",
    )
    organization_id: int | None = Field(
        None, ge=1, description="For a key that serves several organizations."
    )
    max_items: int = Field(200, ge=1, le=1000, description="Readings in one request.")
    skip_webhook: bool = Field(False, description="Do not fire MaintainX webhooks for these readings.")

    @field_validator("base_url")
    @classmethod
    def _is_safe(cls, url: str) -> str:
        return safe_url(url)


class MaintainXCredentials(Credentials):
    """`credentials` of a connection to MaintainX."""

    api_key: SecretStr = Field(
        min_length=1, description="A REST API key: Settings > Integrations in MaintainX."
    )
