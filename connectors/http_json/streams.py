"""What may be set for a list that is read back: where it is, how it is paged, how it
writes its times. Pure.
"""

from __future__ import annotations

from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from connectors.http_json.template import compiled, placeholders
from connectors.http_json.times import TimeForm, TimeKind
from connectors.kit.inbound import NamedStream
from connectors.kit.settings import Block, TimeZoneName
from gateway.model.inbound import InboundStream

FIELD = r"^[^.\x00-\x1f]{1,64}(\.[^.\x00-\x1f]{1,64}){0,7}$"
PATH = r"^/[A-Za-z0-9._~!$&'()*+,;=:@%/-]{0,500}$"
_OF_QUERY = frozenset({"since", "until", "page"})
FieldPath = Annotated[str, Field(pattern=FIELD)]
Parameter = Annotated[str, Field(pattern=r"^[A-Za-z0-9._~$\[\]-]{1,64}$")]
Query = dict[Parameter, Annotated[str, Field(max_length=500)] | int | bool]


class Paging(Block):
    """How a list goes on behind its first page."""

    kind: Literal["none", "next", "header", "cursor", "page", "offset"] = Field(
        "none",
        description=(
            "`next`: a link in the answer; `header`: one in its `Link` header; `cursor`: a word of the"
            " answer, sent back; `page`, `offset`: by number."
        ),
    )
    path: FieldPath | None = Field(None, description="Where the link or the word stands in the answer.")
    parameter: Parameter | None = Field(
        None, description="The query parameter of the word, the page or the offset."
    )
    first: int = Field(1, ge=0, le=1, description="The number of the first page.")

    @model_validator(mode="after")
    def _is_whole(self) -> Paging:
        if self.kind in ("next", "cursor") and self.path is None:
            raise ValueError(f"paging: {self.kind} needs `path`")
        if self.kind in ("cursor", "page", "offset") and self.parameter is None:
            raise ValueError(f"paging: {self.kind} needs `parameter`")
        return self


class ListStream(NamedStream):
    """A list that can be asked what changed, or be read whole."""

    path: str = Field(pattern=PATH, description="Where the list is.")
    items: str = Field(
        "items", pattern=FIELD, description="Path of the array in the answer; `.` where the answer is it."
    )
    key: FieldPath | tuple[FieldPath, ...] = Field(
        "id", description="What identifies a record for ever: a field, or several together."
    )
    modified: FieldPath | None = Field(
        None, description="Time of the last change; without it the list is read whole each time."
    )
    query: Query = Field(
        {}, description="Query of the list; `{since}`, `{until}` and `{page}` are filled in."
    )
    open_query: Query | None = Field(
        None, description="The same for what is still open, however long ago it changed."
    )
    deletions: Literal["none", "keys"] = Field(
        "none",
        description=(
            "`keys`: the list without `{since}` and `{until}` is everything, and what it lacks was deleted."
        ),
    )
    paging: Paging = Field(Paging(), description="How the list goes on behind its first page.")
    ordered: bool = Field(
        False,
        description=(
            "The list comes ascending by `modified`: pages begin at the time where the last one ended."
        ),
    )
    total: FieldPath | None = Field(
        None, description="Where the answer says how many records the whole list has."
    )
    time: TimeKind = Field("iso", description="How times are written.")
    time_format: str | None = Field(
        None, max_length=60, pattern=r"%Y|%y|%s", description="Their strftime pattern, in place of `time`."
    )
    time_zone: TimeZoneName = Field("UTC", description="Zone of times that bear none.")
    after: bool = Field(
        False,
        description="The list leaves out what changed at `{since}` itself: it is asked a little earlier.",
    )

    @field_validator("items", mode="before")
    @classmethod
    def _may_be_whole(cls, path: object) -> object:
        return "$" if path == "." else path

    @model_validator(mode="after")
    def _can_be_asked(self) -> ListStream:
        for query in (self.query, self.open_query or {}):
            compiled(dict(query), known=_OF_QUERY)
        if self.ordered and not self.is_timed:
            raise ValueError("ordered: needs `modified`, and `{since}` in `query`")
        if self.deletions == "keys" and not self.is_timed:
            raise ValueError("deletions: a list that is read whole shows them itself")
        return self

    @property
    def is_timed(self) -> bool:
        """Whether the list can be asked for what changed since."""
        return self.modified is not None and "since" in placeholders(dict(self.query))

    @property
    def keys(self) -> tuple[str, ...]:
        """The fields of the key."""
        return (self.key,) if isinstance(self.key, str) else self.key

    @property
    def times(self) -> TimeForm:
        """How its times are written."""
        return TimeForm(kind=self.time, pattern=self.time_format, zone=ZoneInfo(self.time_zone))

    def stream(self, name: str) -> InboundStream:
        """As the engine knows it."""
        return self.declared(
            name,
            cursor="modified" if self.is_timed else "listing",
            key=self.keys,
            deletions=self.deletions if self.is_timed else "listing",
            lists_open=self.open_query is not None,
        )
