"""The base of every connector's settings, and how a block of configuration becomes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gateway.model.errors import BadConfiguration


class Block(BaseModel):
    """A block of settings or credentials: frozen, unknown keys are errors, and no error repeats a value (it may be a secret)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


BlockT = TypeVar("BlockT", bound=Block)


def parse(model: type[BlockT], values: Mapping[str, object], *, what: str) -> BlockT:
    """The block, or BadConfiguration naming every fault. `what` says where it stands: `settings` or `credentials`."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        faults = "; ".join(f"{'.'.join(str(part) for part in fault['loc']) or what}: {fault['msg']}" for fault in found)
        raise BadConfiguration(f"{what} cannot be used: {faults}") from None
