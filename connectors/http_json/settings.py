"""What may be set for a receiver of JSON over HTTP, and the credentials it may ask for."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, ClassVar, Literal

from pydantic import (
    Field,
    SecretStr,
    StrictBool,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from connectors.http_json.streams import FIELD, PATH, ListStream
from connectors.http_json.template import compiled, placeholders
from connectors.kit.credentials import OAUTH_CLIENT, OAUTH_LOGIN, OAuthLoginCredentials
from connectors.kit.inbound import MAX_STREAMS, StreamName
from connectors.kit.settings import Block, HeaderName, safe_url

OF_READING = frozenset({"connection", "key", "meter", "position", "time", "unit", "value"})
OF_BODY = frozenset({"batch", "connection", "position", "readings"})


class Signature(Block):
    """How a request is signed where the credentials hold a `secret`: HMAC-SHA256 over the body, byte for
    byte.
    """

    header: HeaderName = Field("x-signature-256", description="The header that bears the signature.")
    prefix: str = Field(
        "sha256=", max_length=32, pattern=r"^[\x20-\x7e]*$", description="What stands before it."
    )
    encoding: Literal["hex", "base64"] = Field("hex", description="How it is written.")


class Results(Block):
    """Where an answer tells of each reading, in the order of the request. Anything but these words is a
    refusal.
    """

    items: str = Field(
        "results",
        pattern=FIELD,
        description="Path of the array in the answer; `.` where the answer is the array.",
    )
    status: str = Field("status", pattern=FIELD, description="Path of the word within an item.")
    accepted: str = Field("accepted", description="The word for a reading that was taken.")
    duplicate: str = Field("duplicate", description="The word for one that was there.")
    retry: str = Field("retry", description="The word for one that may be sent again later.")
    superseded: str = Field(
        "superseded", description="The word for one that is older, by {position}, than what is held."
    )
    code: str = Field("code", pattern=FIELD, description="Path of the refusal's code.")
    message: str = Field("message", pattern=FIELD, description="Path of the refusal's words.")
    remote_id: str = Field("id", pattern=FIELD, description="Path of the receiver's own id of the reading.")

    @field_validator("items", mode="before")
    @classmethod
    def _may_be_whole(cls, path: object) -> object:
        return "$" if path == "." else path


class RefusedWhen(Block):
    """What in an answer with 2xx says that the request was refused all the same."""

    path: str = Field("success", pattern=FIELD, description="Path of the word in the answer.")
    word: StrictBool | StrictInt | StrictStr = Field(
        False, description='The word that means refused, with its type: `false` is not `"false"`.'
    )
    code: str = Field("code", pattern=FIELD, description="Path of the refusal's code.")
    message: str = Field("error", pattern=FIELD, description="Path of the refusal's words.")


class ReadBack(Block):
    """How the receiver is asked for readings by their keys: GET `path`?`parameter`=key,key..."""

    path: str = Field(pattern=PATH, description="Where to ask.")
    parameter: str = Field("keys", pattern=r"^[A-Za-z0-9._~-]{1,64}$", description="The query parameter.")
    items: str = Field(
        "readings",
        pattern=FIELD,
        description="Path of the array in the answer; `.` where the answer is the array.",
    )
    key: str = Field("key", pattern=FIELD, description="Path of the key within an item.")
    value: str = Field("value", pattern=FIELD, description="Path of the value.")

    @field_validator("items", mode="before")
    @classmethod
    def _may_be_whole(cls, path: object) -> object:
        return "$" if path == "." else path


class HttpJsonSettings(Block):
    """`settings` of a connection to a receiver of JSON."""

    base_url: str = Field(description="https://host/path of the receiver.")
    path: str = Field("/readings", pattern=PATH, description="Where readings are sent to.")
    method: Literal["POST", "PUT"] = Field("POST", description="How.")
    account: str | None = Field(
        None,
        pattern=FIELD,
        description=(
            "Path, in the answer to `probe_path`, of whose data the credential reaches: new credentials of"
            " another account are not taken."
        ),
    )
    probe_path: str | None = Field(
        None,
        pattern=PATH,
        description="What a probe reads (GET). Without it `path` is asked by HEAD, which proves less.",
    )
    send: Literal["array", "each"] = Field(
        "array", description="Many readings in a request, or one request for each."
    )
    reading: object = Field(
        {"key": "{key}", "meter": "{meter}", "time": "{time}", "value": "{value}", "unit": "{unit}"},
        description="Template of one reading.",
    )
    body: object = Field(
        "{readings}",
        description=(
            "Template around the array of readings; with `send: each` the body is the reading itself."
        ),
    )
    time: Literal["iso", "epoch_seconds", "epoch_milliseconds"] = Field(
        "iso", description="How {time} is written."
    )
    headers: dict[HeaderName, Annotated[str, Field(max_length=500, pattern=r"^[\x20-\x7e]*$")]] = Field(
        {}, max_length=50, description="Further headers; no secrets."
    )
    api_key_header: HeaderName = Field("authorization", description="The header that bears the API key.")
    api_key_prefix: str = Field(
        "Bearer ", max_length=32, pattern=r"^[\x20-\x7e]*$", description="What stands before the key."
    )
    idempotency_header: HeaderName | None = Field(
        "idempotency-key", description="The header that bears the batch's id, equal when it is sent again."
    )
    signature: Signature = Field(Signature(), description="How a request is signed.")
    max_items: int = Field(
        100, ge=1, le=10_000, description="Readings in one request; with `send: each`, in one go."
    )
    refusals: tuple[Annotated[int, Field(ge=400, le=499)], ...] = Field(
        (400, 409, 413, 422), description="Statuses that refuse readings for what they are."
    )
    deduplicates: bool = Field(
        False,
        description="The receiver keeps one reading for each {key}, the last: sending again is harmless.",
    )
    answer: Literal["any", "json"] = Field(
        "any", description="What a 2xx has to bear: anything but a web page, or JSON."
    )
    refused_when: RefusedWhen | None = Field(
        None, description="What in an answer with 2xx means refused all the same."
    )
    results: Results | None = Field(None, description="Where an answer tells of each reading.")
    read_back: ReadBack | None = Field(None, description="How the receiver is asked what it holds.")
    streams: dict[StreamName, ListStream] = Field(
        {}, max_length=MAX_STREAMS, description="Lists that are read back, by name."
    )

    @field_validator("base_url")
    @classmethod
    def _is_safe(cls, url: str) -> str:
        return safe_url(url)

    @field_validator("headers")
    @classmethod
    def _is_free(cls, headers: dict[str, str]) -> dict[str, str]:
        if "authorization" in headers:
            raise ValueError("authorization cannot be set: give credentials")
        return headers

    @model_validator(mode="after")
    def _is_whole(self) -> HttpJsonSettings:
        compiled(self.reading, known=OF_READING)
        compiled(self.body, known=OF_BODY)
        if self.send == "array" and "readings" not in placeholders(self.body):
            raise ValueError("body: the template has no {readings}")
        if (self.deduplicates or self.read_back is not None) and "key" not in placeholders(self.reading):
            raise ValueError("reading: without {key} the receiver can neither deduplicate nor be asked")
        if self.account is not None and self.probe_path is None:
            raise ValueError("account: needs probe_path, whose answer says it")
        if self.send == "each" and self.results is not None:
            raise ValueError("results: with `send: each` the status of the answer tells")
        names = [
            name for name in (self.api_key_header, self.idempotency_header, self.signature.header) if name
        ]
        names += self.headers
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise ValueError(f"{', '.join(twice)}: one header cannot bear two things")
        return self


class HttpJsonCredentials(OAuthLoginCredentials):
    """A signing secret, or another kind of credential with or without one; or nothing. An OAuth 2.0 client's
    tokens are got by the gateway.
    """

    kinds: ClassVar = {
        "hmac": (("secret",), ()),
        "api_key": (("api_key",), ("secret",)),
        "basic": (("username", "password"), ("secret",)),
        "oauth2_client_credentials": (OAUTH_CLIENT[0], (*OAUTH_CLIENT[1], "secret")),
        "oauth2_authorization_code": (OAUTH_LOGIN[0], (*OAUTH_LOGIN[1], "secret")),
    }

    secret: SecretStr | None = Field(None, min_length=16, description="What requests are signed with.")
    api_key: SecretStr | None = Field(None, min_length=1, description="Sent in the header `api_key_header`.")
    username: SecretStr | None = Field(None, min_length=1, description="The user.")
    password: SecretStr | None = Field(None, min_length=1, description="Its password.")
