"""Credentials: what may stand in each of their fields, whatever the system; and systems that take one of
several kinds, checked as a whole and shown to forms as a choice.

What a header, an address or a certificate file cannot hold is refused where it is given, by the place of the
character: later it would only be a call that cannot be sent.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

from pydantic import Field, GetJsonSchemaHandler, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from connectors.kit.settings import Block, safe_url
from gateway.model.connector import Auth
from gateway.model.dsn import parse_dsn

OAUTH_CLIENT = (("token_url", "client_id", "client_secret"), ("scope", "client_authentication"))
"""What an OAuth 2.0 client needs, and what it may have. The gateway gets the tokens."""

OAUTH_LOGIN = (
    ("authorization_url", "token_url", "client_id"),
    ("client_secret", "scope", "client_authentication", "revocation_url", "refresh_token"),
)
"""What a login on the system's own page needs (authorization code with PKCE), and what it may have: a public
client has no secret, and a `refresh_token` is of a login that was made elsewhere.
"""

NOT_SECRET = frozenset({"authorization_url", "revocation_url", "token_url", "scope", "client_authentication"})
"""Fields whose values may stand in an error."""


MAX_LENGTH, MAX_PEM_LENGTH = 8192, 65_536
_PASTED = MappingProxyType(
    {
        "\u00a0": "a non-breaking space",
        "\u202f": "a narrow non-breaking space",
        "\u200b": "a zero-width space",
        "\u2028": "a line separator",
        "\u2029": "a paragraph separator",
        "\ufeff": "a byte order mark",
        "\n": "a line break",
        "\r": "a line break",
        "\t": "a tab",
    }
)
Rule = Callable[[str], None]
"""Returns for what may be given; ValueError says which character may not, and never shows another."""


def is_header(text: str) -> None:
    """Of one line of ASCII, without a space at either end."""
    _check(text, lambda letter: " " <= letter <= "~", "which a header cannot hold")
    if text != text.strip(" "):
        position = 1 if text.startswith(" ") else len(text)
        raise ValueError(f"character {position} is a space: leave out what stands around the credential")


def is_word(text: str) -> None:
    """Of one line in any script, such as a password: no control character and no separator but a space."""
    _check(text, lambda letter: letter == " " or _is_visible(letter), "which cannot be part of it")


def is_user(text: str) -> None:
    """As a word, without a colon: it would end the user's name. Source: RFC 7617, 2."""
    is_word(text)
    if ":" in text:
        raise ValueError(f"character {text.index(':') + 1} is a colon, which the name of a user cannot hold")


def is_address(text: str) -> None:
    """An address with TLS; it may have a query."""
    _check(text, lambda letter: "!" <= letter <= "~", "which an address cannot hold")
    address, _, query = text.partition("?")
    safe_url(address)
    if "#" in query:
        raise ValueError("expected https://host/path, without a fragment")


def is_client_authentication(text: str) -> None:
    """How a client says who it is to its authorization server."""
    if text not in ("basic", "body"):
        raise ValueError("is `basic` or `body`")


def is_pem(text: str) -> None:
    """Lines with a begin; what tools write before it may be in any script."""
    _check(
        text,
        lambda letter: letter in "\r\n\t" or letter.isprintable(),
        "which PEM cannot hold",
        MAX_PEM_LENGTH,
    )
    if "-----BEGIN " not in text:
        raise ValueError("expected PEM: a line `-----BEGIN ...-----` is missing")


def is_dsn(text: str) -> None:
    """The whole address of a PostgreSQL database."""
    parse_dsn(text)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "api_key": is_header,
        "certificate": is_pem,
        "client_authentication": is_client_authentication,
        "client_id": is_header,
        "client_secret": is_header,
        "authorization_url": is_address,
        "dsn": is_dsn,
        "password": is_word,
        "private_key": is_pem,
        "refresh_token": is_header,
        "revocation_url": is_address,
        "scope": is_header,
        "secret": is_word,
        "token_url": is_address,
        "username": is_user,
    }
)
"""By the name of the field: every field of every system's credentials is here."""


class Credentials(Block):
    """The base of what a system takes. A field has its rule in RULES."""

    @field_validator("*", mode="after")
    @classmethod
    def _may_be_given(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, SecretStr):
            RULES[info.field_name or ""](value.get_secret_value())
        return value


def _check(text: str, may: Callable[[str], bool], why: str, max_length: int = MAX_LENGTH) -> None:
    if len(text) > max_length:
        raise ValueError(f"has more than {max_length} characters")
    for position, letter in enumerate(text, 1):
        if not may(letter):
            raise ValueError(
                f"character {position} is {_named(letter)}, {why}: type it, or copy it without that"
            )


def _is_visible(letter: str) -> bool:
    return letter.isprintable() and unicodedata.category(letter) not in ("Cf", "Zs")


def _named(letter: str) -> str:
    """Of a character that is no part of a secret, its name; of any other only what kind it is."""
    if letter in _PASTED:
        return f"{_PASTED[letter]} (U+{ord(letter):04X})"
    match unicodedata.category(letter):
        case "Cc" | "Cf" | "Cs" | "Cn" | "Co":
            return "a character that cannot be seen"
        case "Zs" | "Zl" | "Zp":
            return "a space of another kind than the usual one" if letter != " " else "a space"
        case _:
            return "outside of ASCII"


class OneOfKinds(Credentials):
    """Every field is optional with a default of None; `kinds` has the names that each kind needs, and those
    that it may have.
    """

    kinds: ClassVar[Mapping[Auth, tuple[tuple[str, ...], tuple[str, ...]]]]

    @model_validator(mode="after")
    def _is_one_kind(self) -> OneOfKinds:
        given = {name for name, value in self if value is not None}
        if given and not any(
            set(needed) <= given <= {*needed, *allowed} for needed, allowed in self.kinds.values()
        ):
            raise ValueError(
                "expected " + ", or ".join(" and ".join(needed) for needed, _ in self.kinds.values())
            )
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """A choice of the kinds, so that forms ask for one."""
        fields = handler.resolve_ref_schema(handler(schema))["properties"]

        def field(name: str) -> dict[str, object]:
            return {
                **fields[name]["anyOf"][0],
                "title": fields[name]["title"],
                "description": fields[name]["description"],
            }

        def kind(name: str, needed: tuple[str, ...], allowed: tuple[str, ...]) -> dict[str, object]:
            properties = {"type": {"const": name}, **{item: field(item) for item in (*needed, *allowed)}}
            return {
                "type": "object",
                "properties": properties,
                "required": list(needed),
                "additionalProperties": False,
            }

        return {
            "title": cls.__name__,
            "description": cls.__doc__,
            "oneOf": [kind(name, *parts) for name, parts in cls.kinds.items()],
        }


class OAuthClientCredentials(OneOfKinds):
    """With the fields of an OAuth 2.0 client: the gateway gets the tokens."""

    token_url: SecretStr | None = Field(
        None, min_length=1, description="Where the authorization server gives tokens."
    )
    client_id: SecretStr | None = Field(None, min_length=1, description="The OAuth client.")
    client_secret: SecretStr | None = Field(None, min_length=1, description="Its secret.")
    scope: SecretStr | None = Field(None, description="Where the authorization server asks for one.")
    client_authentication: SecretStr | None = Field(
        None, description="`basic`, or `body` where the authorization server wants it there."
    )


class OAuthLoginCredentials(OAuthClientCredentials):
    """And with those of a login on the system's own page."""

    authorization_url: SecretStr | None = Field(
        None, min_length=1, description="The authorization server's page that a person logs in on."
    )
    revocation_url: SecretStr | None = Field(
        None, min_length=1, description="Where a token is revoked when the connection ends."
    )
    refresh_token: SecretStr | None = Field(
        None,
        min_length=1,
        description="Of a login that was made elsewhere; else somebody logs in through a link.",
    )
