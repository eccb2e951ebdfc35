"""The address of a PostgreSQL database, read and judged before anything is opened. Pure: no file, no
environment.

No fault that is raised here repeats a part of what was given: a password may stand anywhere in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, cast, get_args
from urllib.parse import quote, unquote_to_bytes

SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
EXAMPLE = "postgresql://role:password@host:5432/database"
MAX_LENGTH = 4096
FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
"""Parameters that name a file."""

_SCHEMES = ("postgresql://", "postgres://")
# What ends a part of a URL, or begins another, when it stands for itself in a user or a password.
_MEANING = MappingProxyType(
    {"#": "%23", "/": "%2F", "?": "%3F", "[": "%5B", "]": "%5D", "@": "%40", " ": "%20"}
)
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})")
_SIX = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\](?::(.*))?")
_PARAMETERS = ("sslmode", "application_name")
_KNOWN = frozenset(
    {
        *_PARAMETERS,
        "connect_timeout",
        "dbname",
        "gsslib",
        "host",
        "krbsrvname",
        "options",
        "passfile",
        "password",
        "port",
        "service",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslnegotiation",
        "sslpassword",
        "sslrootcert",
        "target_session_attrs",
        "user",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dsn:
    """A whole address: everything that a driver would otherwise look for in its environment is said."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    sslmode: SslMode
    application_name: str | None = None


def parse_dsn(text: str) -> Dsn:
    """One host over TCP with its user, password and database; ValueError says what is wrong and what to do.

    Nothing is left to a socket, an environment variable, a password file or a service file.
    """
    user, password, rest = _head(text)
    if not user or not password:
        raise ValueError(f"user and password are needed: expected {EXAMPLE}")
    authority, database, given = _tail(rest)
    if unknown := sorted(given.keys() - set(_PARAMETERS)):
        raise ValueError(f"{_named(unknown)} cannot be set here: only {' and '.join(_PARAMETERS)} can")
    host, port = _place(authority)
    sslmode = given.get("sslmode", "prefer")
    if sslmode not in get_args(SslMode):
        raise ValueError(f"sslmode must be {', '.join(get_args(SslMode)[:-1])} or verify-full")
    return Dsn(
        host=host,
        port=port,
        user=_decoded(user, "user"),
        password=_decoded(password, "password"),
        database=_decoded(database, "database") if database else _decoded(user, "user"),
        sslmode=cast(SslMode, sslmode),
        application_name=given.get("application_name"),
    )


def check_own_dsn(text: str) -> str:
    """The gateway's own address as it was given; ValueError where no waiting could make it work.

    It is the operator's: sockets, several hosts, the environment and files of the driver are theirs to use.
    """
    user, password, rest = _head(text)
    authority, database, given = _tail(rest)
    for name, part in (("user", user), ("password", password), ("database", database)):
        _decoded(part, name)
    for part in authority.split(",") if authority else ():
        if part.startswith(("%2F", "%2f")):
            continue  # a socket's folder
        _place(part)
    if "sslmode" in given and given["sslmode"] not in (*get_args(SslMode), "allow"):
        raise ValueError("sslmode must be disable, allow, prefer, require, verify-ca or verify-full")
    if "port" in given and not all(_is_port(port) for port in given["port"].split(",")):
        raise ValueError("the port is a number from 1 to 65535")
    if given.get("target_session_attrs", "read-write") not in ("read-write", "primary", "any"):
        raise ValueError("the gateway writes: leave target_session_attrs out, or say read-write")
    each_host(text)
    return text


def fault_of(text: str) -> str | None:
    """What is wrong with the gateway's own address, as `check_own_dsn` says it; None
    where it can be tried.
    """
    try:
        check_own_dsn(text)
    except ValueError as error:
        return str(error)
    return None


def each_host(text: str) -> Sequence[str]:
    """The gateway's own address once for each of its hosts, in their order. Raises ValueError."""
    user, password, rest = _head(text)
    authority, database, given = _tail(rest)
    hosts = authority.split(",") if authority else []
    if not hosts and "host" in given:
        named, ports = given["host"].split(","), given.get("port", "").split(",")
        if len(ports) == 1:
            ports *= len(named)
        if len(ports) != len(named):
            raise ValueError("as many ports as hosts are needed, or one")
        hosts = [
            f"{quote(host, safe='[]:') if host.startswith('/') else host}{port and f':{port}'}"
            for host, port in zip(named, ports, strict=True)
        ]
        given = {name: value for name, value in given.items() if name not in ("host", "port")}
    if len(hosts) < 2:
        return [text]
    scheme = next(scheme for scheme in _SCHEMES if text.startswith(scheme))
    account = ""
    if password:
        account = f"{user}:{password}@"
    elif user:
        account = f"{user}@"
    tail = "&".join(f"{name}={quote(value, safe='/,:')}" for name, value in given.items())
    return [f"{scheme}{account}{host}/{database}{tail and f'?{tail}'}" for host in hosts]


def parameters(text: str) -> Mapping[str, str]:
    """What stands behind the question mark. Raises ValueError."""
    _, _, rest = _head(text)
    return _tail(rest)[2]


def _head(text: str) -> tuple[str, str, str]:
    """User and password as they are written, and what follows them."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"more than {MAX_LENGTH} characters: expected {EXAMPLE}")
    for position, letter in enumerate(text, 1):
        if not letter.isprintable():
            raise ValueError(f"character {position} cannot be printed: expected {EXAMPLE}")
    scheme = next((scheme for scheme in _SCHEMES if text.startswith(scheme)), None)
    if scheme is None:
        raise ValueError(_no_scheme(text))
    user_info, at, rest = text[len(scheme) :].rpartition("@")
    if not at:
        return "", "", rest
    if taken := [letter for letter in _MEANING if letter in user_info]:
        encoded = " and ".join(f"`{letter}` as {_MEANING[letter]}" for letter in taken)
        raise ValueError(f"percent-encode {encoded} in user and password: expected {EXAMPLE}")
    user, _, password = user_info.partition(":")
    return user, password, rest


def _no_scheme(text: str) -> str:
    if text.startswith("jdbc:"):
        return (
            "an address for JDBC: leave `jdbc:` out, and put user and password before the host, as in"
            f" {EXAMPLE}"
        )
    if re.match(r"[a-z_]+\s*=", text):
        return f"not in the form keyword=value: expected {EXAMPLE}"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        return f"an address of something else than PostgreSQL: expected {EXAMPLE}"
    return f"expected {EXAMPLE}"


def _tail(rest: str) -> tuple[str, str, Mapping[str, str]]:
    """Hosts and database as they are written, and the parameters."""
    if "#" in rest:
        raise ValueError(f"`#` ends an address: percent-encode it as %23, as in {EXAMPLE}")
    path, _, query = rest.partition("?")
    authority, _, database = path.partition("/")
    if "/" in database or "?" in query:
        raise ValueError(
            f"`/` or `?` stands where none can: percent-encode it as %2F or %3F, as in {EXAMPLE}"
        )
    parameters: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, equals, value = pair.partition("=")
        if not re.fullmatch(r"[A-Za-z_.]{1,64}", name) or not equals or name in parameters:
            raise ValueError("the parameters behind `?` are name=value, each once, with `&` between")
        parameters[name] = _decoded(value, name)
    return authority, database, parameters


def _place(authority: str) -> tuple[str, int]:
    """Host in lower case and port."""
    if "," in authority:
        raise ValueError("one host is expected")
    if (six := _SIX.fullmatch(authority)) is not None:
        host, port = six[1], six[2]
    else:
        host, colon, written = authority.partition(":")
        port = written if colon else None
        if _HOST.fullmatch(host) is None:
            raise ValueError(
                f"a host is needed, its name in ASCII: expected {EXAMPLE}, with `@`, `:`, `/`, `?`, `#` in"
                " user and password percent-encoded"
            )
    if port is not None and not _is_port(port):
        raise ValueError(
            "the port is a number from 1 to 65535 (a `:` or `@` in the password is written %3A or %40)"
        )
    return host.lower(), 5432 if port is None else int(port)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535


def _decoded(written: str, name: str) -> str:
    try:
        text = unquote_to_bytes(written).decode()
    except UnicodeError:
        raise ValueError(f"what is percent-encoded in the {name} is not UTF-8") from None
    if not text.isprintable():
        raise ValueError(f"the {name} holds a character that cannot be printed")
    return text


def _named(names: list[str]) -> str:
    """Names of parameters, of which none can be a piece of a password that was cut in two."""
    known = [name for name in names if name in _KNOWN]
    return ", ".join(known) if len(known) == len(names) else "a parameter behind `?`"
