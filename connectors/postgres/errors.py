"""asyncpg's and the socket's errors to ours: one table for connecting, one for a statement that was sent."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from asyncpg.pgproto.pgproto import BufferError as OddBufferError

from connectors.kit.bisect import BatchRefusal
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    OutcomeUnknown,
    PermissionDenied,
    Unavailable,
)

_LOGIN = (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)
_MISSING = (
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.DatatypeMismatchError,
    asyncpg.WrongObjectTypeError,
    asyncpg.InvalidColumnReferenceError,  # the table lacks the unique key
    asyncpg.GeneratedAlwaysError,
)
# The server refuses the rows: values (class 22), constraints (23), size of an index entry (54), a trigger's
# `raise exception`.
_DATA = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.RaiseError,
)
# Raised by the client when the connection went away; asyncpg's internal error too, when it goes just as a
# statement begins.
_GONE = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
# What the driver, and who reads its rows, raises at an answer that no PostgreSQL gives: it trusts the
# protocol.
_ODD = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    OddBufferError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    asyncpg.ClientConfigurationError,
)
_CUT = (asyncpg.PostgresConnectionError, *_GONE)


@contextmanager
def connecting() -> Iterator[None]:
    """Around opening a session: nothing has been sent yet."""
    try:
        yield
    except asyncpg.PostgresConnectionError as error:
        raise Unavailable(f"PostgreSQL cannot be reached: {error}") from error
    except asyncpg.PostgresError as error:
        raise convert(error) from error
    except ssl.SSLError as error:  # a certificate that is refused is a ValueError as well
        raise Unavailable(f"PostgreSQL cannot be reached over TLS: {error}") from error
    except _GONE as error:
        raise Unavailable(f"PostgreSQL cannot be reached: {type(error).__name__}: {error}") from error
    except _ODD as error:
        raise Unavailable(f"what answers is no PostgreSQL: {type(error).__name__}") from error


@contextmanager
def executing(*, harmless: bool = False) -> Iterator[None]:
    """Around a statement: a lost connection leaves its outcome unknown, unless it is `harmless` to have run;
    an error that the server reports is definite.
    """
    try:
        yield
    except _CUT as error:
        lost = Unavailable if harmless else OutcomeUnknown
        raise lost(
            f"the connection to PostgreSQL was lost during a statement: {type(error).__name__}: {error}"
        ) from error
    except asyncpg.PostgresError as error:
        raise convert(error) from error
    except _ODD as error:
        odd = Unavailable if harmless else OutcomeUnknown
        raise odd(f"PostgreSQL's answer cannot be understood: {type(error).__name__}") from error


def convert(error: asyncpg.PostgresError) -> ConnectorError:
    """What an error reported by the server means: the statement had no effect."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, _LOGIN):
        return AuthRefused(f"PostgreSQL refuses the login: {error}")
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return PermissionDenied(
            f"PostgreSQL: {error}; grant select, insert and update on the table (and create on the schema,"
            " where it is to be created)"
        )
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return Unavailable(f"PostgreSQL is read-only (a standby?): {error}")
    if isinstance(error, _MISSING):
        return BadConfiguration(
            f"PostgreSQL: {text}; check settings.schema and settings.table, or set create_table"
        )
    if isinstance(error, _DATA):
        return BatchRefusal(f"{error}", code=error.sqlstate or "refused")
    return Unavailable(f"PostgreSQL: {text}")
