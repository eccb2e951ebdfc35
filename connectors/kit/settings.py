"""The base of every connector's settings, and how a block of configuration becomes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, TypeVar
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from gateway.model.errors import BadConfiguration

MAX_ADDRESS_LENGTH = 2000
_NO_ADDRESS = frozenset(' "<>\\^`{|}')
# Labels as resolvers take them, or an address of version 6; a name in another script is given in its ASCII
# form.
_HOST = re.compile(
    r"(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)"
    r"(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*\.?|[0-9a-f]{0,4}:[0-9a-f:.]{1,43}"
)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_OF_HTTP = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""What frames a request, or says where it goes: a header of the configuration would change both."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Block(BaseModel):
    """A block of settings or credentials: frozen, unknown keys are errors, and no error repeats a value (it
    may be a secret).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


BlockT = TypeVar("BlockT", bound=Block)
MAX_NAME, MAX_WORDS, MAX_FAULTS = 80, 500, 20


def parse(model: type[BlockT], values: Mapping[str, object], *, what: str) -> BlockT:
    """The block, or BadConfiguration naming every fault. `what` says where it stands: `settings` or
    `credentials`.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        # a name that is no key of ours may have any length, and there may be any number of them
        faults = "; ".join(
            f"{'.'.join(str(part)[:MAX_NAME] for part in fault['loc']) or what}: {fault['msg'][:MAX_WORDS]}"
            for fault in found[:MAX_FAULTS]
        )
        raise BadConfiguration(f"{what} cannot be used: {faults}") from None


def _header_name(name: str) -> str:
    if _TOKEN.fullmatch(name) is None:
        raise ValueError("expected the name of an HTTP header")
    if (header := name.lower()) in _OF_HTTP:
        raise ValueError(f"{header} cannot be set: it belongs to HTTP")
    return header


HeaderName = Annotated[str, AfterValidator(_header_name)]
"""The name of a header that a setting may choose, in lower case."""


def _time_zone(name: str) -> str:
    if name not in _zone_names():
        raise ValueError(f"{name[:60]!r} is no time zone that this machine knows")
    return name


@cache
def _zone_names() -> frozenset[str]:
    """What stands in the database beside zones (`right/...`, whose clocks count leap seconds) is none."""
    return frozenset(available_timezones())


TimeZoneName = Annotated[str, AfterValidator(_time_zone)]
"""Of a zone that this machine knows."""


def safe_url(url: str) -> str:
    """The address without a slash at its end; https, or http on this machine. Raises ValueError, for a
    field's validator.
    """
    if not url.isascii() or not url.isprintable() or set(url) & _NO_ADDRESS or len(url) > MAX_ADDRESS_LENGTH:
        raise ValueError(
            "expected https://host/path in ASCII and without spaces: a name in its `xn--` form, other"
            " characters percent-encoded"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(
            "expected https://host/path, with a port from 1 to 65535 where one is given"
        ) from None
    if port == 0 or _HOST.fullmatch(parts.hostname or "") is None:
        raise ValueError("expected https://host/path, with a port from 1 to 65535 where one is given")
    if parts.username or parts.password or parts.query or parts.fragment or not parts.hostname:
        raise ValueError("expected https://host/path, without user, query or fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError("the credential must not travel in clear: use https")
    return url.rstrip("/")
