"""What may be set for Tryton, and the credential it needs."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator

from connectors.kit.credentials import Credentials
from connectors.kit.settings import Block, safe_url


class TrytonSettings(Block):
    """`settings` of a connection to Tryton."""

    base_url: str = Field(description="https://host:port of the server, without the database.")
    database: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$", description="Name of the database.")
    company: int | None = Field(
        None,
        ge=1,
        description=(
            "Only controls of this company, by its id; needed where two companies have controls of one name."
        ),
    )
    max_items: int = Field(200, ge=1, le=200, description="Readings in one request.")
    create_points: bool = Field(
        False,
        description=(
            "Let Fieldgate make controls and points; its user needs the group Quality Administration."
        ),
    )
    overlap_seconds: int = Field(
        120,
        ge=60,
        le=86_400,
        description="How far back each pull looks: longer than the longest transaction at Tryton.",
    )

    @field_validator("base_url")
    @classmethod
    def _is_safe(cls, url: str) -> str:
        return safe_url(url)


class TrytonCredentials(Credentials):
    """`credentials` of a connection to Tryton."""

    api_key: SecretStr = Field(min_length=1, description="A user application key of the kind `rest`.")
