"""What may be set for a table or view that is read back. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from connectors.kit.inbound import NamedStream
from connectors.kit.settings import TimeZoneName
from gateway.model.inbound import InboundStream

Column = Annotated[str, Field(pattern=r"^[^\x00]{1,63}$")]
MAX_PAGE = 200
"""A row is cut at 300 KB, and the answer to a statement is bounded at 64 MB."""


class TableStream(NamedStream):
    """A table or view that can be asked what changed, or be read whole."""

    schema_name: Column = Field("public", alias="schema", description="Schema of the table or view.")
    table: Column = Field(description="The table or view.")
    key: Column | tuple[Column, ...] = Field(
        "id", description="The column, or columns, that identify a row for ever; never null."
    )
    modified: Column | None = Field(
        None,
        description=(
            "timestamptz or timestamp: time of the last change; without it the table is read whole each time."
        ),
    )
    select: tuple[Column, ...] = Field((), description="Columns of a record; else all.")
    page: int = Field(MAX_PAGE, ge=1, le=MAX_PAGE, description="Rows in one statement.")
    settle_seconds: int = Field(
        3600,
        ge=0,
        le=86_400,
        description="A transaction of the source that is open for longer is not waited for.",
    )
    time_zone: TimeZoneName = Field("UTC", description="Zone of a `timestamp` without one.")

    @model_validator(mode="after")
    def _selects_what_it_reads(self) -> TableStream:
        if self.select:
            read = (self.progress and self.progress.path, self.deleted and self.deleted.path, self.reference)
            if missing := sorted({name for name in read if name} - set(self.select)):
                raise ValueError(f"select: {', '.join(missing)} is read and not selected")
        return self

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns of the key."""
        return (self.key,) if isinstance(self.key, str) else self.key

    def stream(self, name: str) -> InboundStream:
        """As the engine knows it. What settles late is waited for in `remote_now`, by the transactions that
        are really open.
        """
        timed = self.modified is not None
        return self.model_copy(update={"settle_seconds": 0}).declared(
            name,
            cursor="modified" if timed else "listing",
            key=self.keys,
            deletions="keys" if timed else "listing",
            lists_open=bool(self.open_words),
        )
