"""What may be set for a table sink, and the credential it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from connectors.kit.credentials import Credentials
from connectors.kit.inbound import MAX_STREAMS, StreamName
from connectors.kit.settings import Block
from connectors.postgres.streams import TableStream

# 63 bytes is PostgreSQL's limit; 48 characters leave room for the suffixes of the index and of the journal.
Name = Annotated[str, Field(pattern=r"^[^\x00]{1,48}$")]


class PostgresSettings(Block):
    """`settings` of a connection to PostgreSQL."""

    schema_name: Name = Field("public", alias="schema", description="Schema of the table; it must exist.")
    table: Name | None = Field(
        "fieldgate_reading",
        description=(
            "The table that readings are written to; null: nothing is written, and the role need not be"
            " allowed to."
        ),
    )
    create_table: bool = Field(True, description="Create the table (and the journal) where it is missing.")
    journal: bool = Field(
        False,
        description="Also write each insert and each change as a row of `<table>_journal`, which only grows.",
    )
    ca_file: Path | None = Field(
        None, description="Authority of the server's certificate; else the machine's."
    )
    position_column: Name | None = Field(
        "position",
        description=(
            "Column (bigint) that keeps an older reading from replacing a newer one; used where the table has"
            " it, and made with the table."
        ),
    )
    max_items: int = Field(5000, ge=1, le=20_000, description="Readings in one statement.")
    streams: dict[StreamName, TableStream] = Field(
        {}, max_length=MAX_STREAMS, description="Tables and views that are read back, by name."
    )


class PostgresCredentials(Credentials):
    """`credentials` of a connection to PostgreSQL."""

    dsn: SecretStr = Field(
        min_length=1, description="postgresql://role:password@host:5432/database?sslmode=verify-full"
    )
