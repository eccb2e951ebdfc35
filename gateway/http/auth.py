"""Who asks, and whether it may: the bearer token, its role, and the one place where a connection of another
customer does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol, TypeVar

from fastapi import Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from gateway.http.entrance import Entrance
from gateway.http.services import Services
from gateway.model.access import Caller, Principal, Role
from gateway.model.errors import RequestRefused
from gateway.model.verification import Verdict, Verification
from gateway.settings import HttpSettings
from gateway.settings_base import IDENTIFIER
from gateway.store.turns import work_for
from gateway.store.views import AskedConnection

BEARER = HTTPBearer(
    auto_error=False, scheme_name="token", description="An API token: `fieldgate token create --role viewer`."
)
ANYONE = Principal(name="anyone", role=Role.ADMIN)
"""Who asks where `http.authentication` is off."""


class Mounted:
    """Holds the services from when the database is open; until then every request is told to wait."""

    def __init__(self, entrance: Entrance | None = None) -> None:
        self.services: Services | None = None
        self.entrance = Entrance(HttpSettings()) if entrance is None else entrance


async def services(request: Request) -> Services:  # async, or FastAPI would run it in a thread
    """What answers; RequestRefused("gateway.overloaded") while the daemon starts."""
    mounted: Mounted = request.app.state.mounted
    if mounted.services is None:
        raise RequestRefused(
            "gateway.overloaded", "Fieldgate is starting: the database is not open yet.", retry_after=1.0
        )
    return mounted.services


Serving = Annotated[Services, Depends(services)]


async def principal(
    request: Request, bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
) -> Principal:
    """Whose token it is. Raises RequestRefused("auth.unauthenticated")."""
    serving = await services(request)
    if not serving.authentication:
        return ANYONE
    found = None if bearer is None else await identified(request, serving, bearer.credentials)
    if found is None:
        said = "There is none" if bearer is None else "This one is unknown, expired or revoked"
        raise RequestRefused(
            "auth.unauthenticated", f"Send an API token as `Authorization: Bearer fg_...`. {said}."
        )
    request.state.principal = found[0]
    work_for(found[0].customer)
    return found[0]


async def identified(
    request: Request, serving: Services, token: str, *, kind: str = "token"
) -> tuple[Principal, str] | None:
    """Whose token it is, and its id; None for one that is no good, which counts against the client's address.
    Raises RequestRefused("auth.too_many_attempts").
    """
    entrance: Entrance = request.app.state.mounted.entrance
    address = entrance.address(request.scope)
    entrance.check_attempts(address, token)
    found = await serving.access.identify(token)
    if found is None:
        entrance.failed(address, token, kind=kind)
    else:
        entrance.succeeded(token)
    return found


def check_tries(request: Request) -> None:
    """Before credentials are tried: one that is refused counts as a failed logon of the client's address.
    Raises RequestRefused("auth.too_many_attempts").
    """
    entrance: Entrance = request.app.state.mounted.entrance
    entrance.check_attempts(entrance.address(request.scope), "")


def note_try(request: Request, found: Verification | None) -> None:
    """After they were tried."""
    if found is not None and found.verdict is Verdict.REFUSED:
        entrance: Entrance = request.app.state.mounted.entrance
        entrance.failed(entrance.address(request.scope), "", kind="verification")


Asking = Annotated[Principal, Depends(principal)]
ConnectionId = Annotated[str, Path(pattern=IDENTIFIER, examples=["acme-s4"])]


def check_role(asking: Principal, needed: Role) -> Principal:
    """Raises RequestRefused("auth.forbidden") for a role that is too small."""
    if not asking.role.covers(needed):
        raise RequestRefused("auth.forbidden", f"This needs the role {needed}; yours is {asking.role}.")
    return asking


class Owned(Protocol):
    """What was read of a connection."""

    @property
    def customer(self) -> str: ...  # noqa: D102


OwnedT = TypeVar("OwnedT", bound=Owned)


def check_owner(asking: Principal, found: OwnedT | None) -> OwnedT:
    """The only check of whose a connection is: another customer's is refused as one that does not exist.
    Raises RequestRefused("request.not_found").
    """
    if found is None or not asking.may_see(found.customer):
        raise RequestRefused("request.not_found", "There is no such connection.")
    return found


async def find_target(serving: Services, asking: Principal, connection: str) -> AskedConnection:
    """The connection, if it exists for whoever asks. Raises RequestRefused("request.not_found")."""
    return check_owner(asking, await serving.reader.target(connection))


@dataclass(frozen=True, slots=True)
class Require:
    """A dependency: whoever asks has this role at least."""

    role: Role

    async def __call__(self, asking: Asking) -> Principal:
        """Raises RequestRefused("auth.forbidden")."""
        return check_role(asking, self.role)


@dataclass(frozen=True, slots=True)
class Of:
    """A dependency: the connection of the path, for whoever has this role and for whom it exists."""

    role: Role

    async def __call__(self, serving: Serving, asking: Asking, connection: ConnectionId) -> AskedConnection:
        """Raises RequestRefused: auth.forbidden, request.not_found."""
        return await find_target(serving, check_role(asking, self.role), connection)


Viewer = Annotated[Principal, Depends(Require(Role.VIEWER))]
Operator = Annotated[Principal, Depends(Require(Role.OPERATOR))]
Admin = Annotated[Principal, Depends(Require(Role.ADMIN))]
ViewedConnection = Annotated[AskedConnection, Depends(Of(Role.VIEWER))]
OperatedConnection = Annotated[AskedConnection, Depends(Of(Role.OPERATOR))]
AdministeredConnection = Annotated[AskedConnection, Depends(Of(Role.ADMIN))]


def caller(request: Request, asking: Principal, *, kind: str = "token") -> Caller:
    """Who is named in the audit. With the customer of whoever is bound to one: another's may have the same
    name.
    """
    name = asking.name if asking.customer is None else f"{asking.customer}/{asking.name}"
    return Caller(name=f"{kind}:{name}", request_id=request.state.request_id, origin=asking.origin)


def only_customer(asking: Principal, customer: str | None) -> str | None:
    """The customer that a list is narrowed to; None: of all. Of another customer than its own a bound token
    sees what there is of one that does not exist: of the empty name, which nobody has.
    """
    if asking.customer is None:
        return customer
    return asking.customer if customer in (None, asking.customer) else ""


def check_customer(asking: Principal, customer: str, *, what: str) -> str:
    """Of another customer than its own a bound token is told what it would be told of none. Raises
    RequestRefused("request.not_found").
    """
    if not asking.may_see(customer):
        raise RequestRefused("request.not_found", f"There is no such {what}.")
    return customer
