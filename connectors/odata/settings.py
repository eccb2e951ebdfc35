"""What may be set for an OData service. Service, sets and properties are the customer's own."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from connectors.kit.credentials import OAUTH_CLIENT, OAUTH_LOGIN, OAuthLoginCredentials
from connectors.kit.inbound import MAX_STREAMS, NamedStream, StreamName
from connectors.kit.settings import Block, HeaderName, safe_url
from gateway.model.inbound import InboundStream

_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
Name = Annotated[str, Field(pattern=_NAME)]


class Properties(Block):
    """Names of the properties of a reading; those that are null are not written."""

    id: str | None = Field(None, pattern=_NAME, description="The system's own id, which it assigns.")
    key: str | None = Field(
        "externalId",
        pattern=_NAME,
        description="Edm.String, filterable, 20 characters or more: Fieldgate's key of the reading.",
    )
    meter: str = Field("meter", pattern=_NAME, description="Edm.String: the meter.")
    time: str = Field(
        "readingDateTime", pattern=_NAME, description="Edm.DateTimeOffset: time of the reading."
    )
    value: str = Field(
        "value",
        pattern=_NAME,
        description="Edm.Double or Edm.Decimal: a number; booleans are written as 1 and 0.",
    )
    text: str | None = Field(None, pattern=_NAME, description="Edm.String: a text, in place of the value.")
    unit: str | None = Field(None, pattern=_NAME, description="Edm.String: the mapping's unit.")


class Meters(Block):
    """Where the service lists meters, so that they can be discovered."""

    entity_set: Name = Field("meters", description="The set.")
    meter: Name = Field("number", description="What a mapping calls the meter by.")
    title: Name | None = Field(None, description="Its title.")
    unit: Name | None = Field(None, description="Its unit.")


class SetStream(NamedStream):
    """A set that can be asked what changed, or be read whole."""

    entity_set: Name = Field(description="The set.")
    key: Name | tuple[Name, ...] = Field(
        "id", description="The property, or properties, that identify a record for ever."
    )
    modified: Name | None = Field(
        "lastModifiedDateTime",
        description="Edm.DateTimeOffset: time of the last change; null: the set is read whole each time.",
    )
    select: tuple[Name, ...] = Field((), description="Properties of a record; else all.")
    count: bool = Field(
        False, description="Ask how many records there are: some services take long to say so."
    )

    @property
    def keys(self) -> tuple[str, ...]:
        """The properties of the key."""
        return (self.key,) if isinstance(self.key, str) else self.key

    def stream(self, name: str) -> InboundStream:
        """As the engine knows it."""
        timed = self.modified is not None
        return self.declared(
            name,
            cursor="modified" if timed else "listing",
            key=self.keys,
            deletions="keys" if timed else "listing",
            lists_open=bool(self.open_words),
        )


class ODataSettings(Block):
    """`settings` of a connection to an OData service."""

    base_url: str = Field(description="https://host of the service, without a path.")
    service: str = Field(
        pattern=r"^/[A-Za-z0-9._~!$()*,;=:@%/-]{0,500}$",
        description="Path of the service, such as /v2.0/tenant/production/api/maker/iot/v1.0/companies(id).",
    )
    entity_set: Name = Field(description="The set that readings are created in.")
    parameters: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")], Annotated[str, Field(max_length=200)]
    ] = Field({}, description="Into the query of every request, such as a company.")
    properties: Properties = Field(Properties(), description="Names of a reading's properties.")
    constants: dict[Name, str | int | float | bool] = Field(
        {}, description="Further properties of every reading, always the same."
    )
    unique_key: bool = Field(
        False,
        description="The service refuses a second reading with the same key: sending again is harmless.",
    )
    batch: Literal["multipart", "json"] = Field(
        "multipart", description="How `$batch` is written; Business Central wants JSON."
    )
    max_text: int = Field(250, ge=1, le=10_000, description="Most characters of a meter, a unit or a text.")
    max_items: int = Field(
        100, ge=1, le=1000, description="Readings in one request; Business Central takes 100."
    )
    api_key_header: HeaderName = Field("x-api-key", description="The header that bears an API key.")
    meters: Meters | None = Field(None, description="Lets meters be discovered.")
    streams: dict[StreamName, SetStream] = Field(
        {}, max_length=MAX_STREAMS, description="Sets that are read back, by name."
    )

    @field_validator("base_url")
    @classmethod
    def _is_safe(cls, url: str) -> str:
        return safe_url(url)

    @model_validator(mode="after")
    def _is_whole(self) -> ODataSettings:
        if self.unique_key and self.properties.key is None:
            raise ValueError("unique_key: needs properties.key")
        if not all(_is_json(value) for value in self.constants.values()):
            raise ValueError("constants: a number beyond 2^53 or none that is finite: give it as a text")
        if taken := sorted(self.constants.keys() & {name for _, name in self.properties}):
            raise ValueError(f"constants: {', '.join(taken)} is a reading's own property")
        return self


def _is_json(value: str | float | bool) -> bool:
    return isinstance(value, str) or (abs(value) <= 2**53 if isinstance(value, int) else isfinite(value))


class ODataCredentials(OAuthLoginCredentials):
    """One of four kinds: an OAuth 2.0 client (the gateway gets the tokens), one with which a person logs in
    on the system's page, a technical user, an API key.
    """

    kinds: ClassVar = {
        "oauth2_client_credentials": OAUTH_CLIENT,
        "oauth2_authorization_code": OAUTH_LOGIN,
        "basic": (("username", "password"), ()),
        "api_key": (("api_key",), ()),
    }

    username: SecretStr | None = Field(None, min_length=1, description="A technical user.")
    password: SecretStr | None = Field(None, min_length=1, description="Its password.")
    api_key: SecretStr | None = Field(None, min_length=1, description="Sent in the header `api_key_header`.")
