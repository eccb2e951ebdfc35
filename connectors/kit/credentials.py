"""Credentials of which a system takes one of several kinds: checked as a whole, and shown to forms as a
choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from connectors.kit.settings import Block
from gateway.model.connector import Auth

OAUTH_CLIENT = (("token_url", "client_id", "client_secret"), ("scope", "client_authentication"))
"""What an OAuth 2.0 client needs, and what it may have. The gateway gets the tokens."""

NOT_SECRET = frozenset({"token_url", "scope", "client_authentication"})
"""Fields whose values may stand in an error."""


class OneOfKinds(Block):
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
