"""What may be set for a table sink, and the credential it needs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from connectors.kit.settings import Block

# 63 bytes is PostgreSQL's limit; 48 characters leave room for the suffixes of the index and of the journal.
Name = Annotated[str, Field(pattern=r"^[^\x00]{1,48}$")]


class PostgresSettings(Block):
    """`settings` of a connection to PostgreSQL."""

    schema_name: Name = Field("public", alias="schema", description="Schema of the table; it must exist.")
    table: Name = Field("fieldgate_reading", description="The table that readings are written to.")
    create_table: bool = Field(True, description="Create the table (and the journal) where it is missing.")
    journal: bool = Field(
        False,
        description="Also write each insert and each change as a row of `<table>_journal`, which only grows.",
    )
    position_column: Name | None = Field(
        "position",
        description="Column (bigint) that keeps an older reading from replacing a newer one; used where the table has it, and made with the table.",
    )
    max_items: int = Field(5000, ge=1, le=20_000, description="Readings in one statement.")


class PostgresCredentials(Block):
    """`credentials` of a connection to PostgreSQL."""

    dsn: SecretStr = Field(description="postgresql://role:password@host:5432/database?sslmode=verify-full")

    @field_validator("dsn")
    @classmethod
    def _is_a_url(cls, dsn: SecretStr) -> SecretStr:
        if not dsn.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("expected postgresql://role:password@host:5432/database")
        return dsn
