"""What `database.dsn` may be. Pure. Its faults never repeat a part of it: with a character that is not percent-encoded, what
looks like a host or a database may be the rest of the password.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

_FORM = "expected postgresql://user:password@host:5432/database"
_ENCODE = "percent-encode the characters # / ? [ ] @ : % of user and password (@ is %40)"
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
"""Parameters that name a file."""


def fault_of(dsn: str) -> str | None:
    """What is wrong with it as a text, whatever any server says; None where it can be tried."""
    scheme, separator, rest = dsn.partition("://")
    if not separator or scheme not in ("postgresql", "postgres"):
        return f"is no address of PostgreSQL; {_FORM}"
    if "#" in rest or any(character.isspace() or not character.isprintable() for character in rest):
        return f"has a character that no address can have; {_ENCODE}"
    try:
        parts = urlsplit(dsn)
    except ValueError:
        return f"cannot be read; {_ENCODE}"
    login, _, hosts = parts.netloc.rpartition("@")
    if "@" in login or "@" in parts.path or (not login and "@" in parts.query):
        return f"has an @ too many; {_ENCODE}"
    for host in hosts.split(","):
        port = host.rpartition("]")[2].rpartition(":")[2] if ":" in host.rpartition("]")[2] else None
        if port is not None and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            return f"has a port that is no number from 1 to 65535; {_ENCODE}"
    try:
        given = parameters(dsn)
    except ValueError:
        return f"has parameters that cannot be read, they are name=value with & between; {_ENCODE}"
    if given.get("sslmode", "prefer") not in _SSL_MODES:
        return f"has an unknown sslmode; known are {', '.join(_SSL_MODES)}"
    if not all(port.isdigit() and 0 < int(port) < 65536 for port in given.get("port", "1").split(",")):
        return "has a port that is no number from 1 to 65535"
    return None


def parameters(dsn: str) -> Mapping[str, str]:
    """What stands behind the question mark. Raises ValueError."""
    query = urlsplit(dsn).query
    return (
        {name: values[-1] for name, values in parse_qs(query, strict_parsing=True).items()} if query else {}
    )
