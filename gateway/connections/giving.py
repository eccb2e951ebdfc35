"""Giving: credentials are sealed and stored as the candidate of a connection, which is then verified. What is
in use stays so until the system has taken the candidate (`gateway.connections.candidates`).

Each credential has a generation, one more than any before it. It is sealed for its connection and generation,
so it opens nowhere else.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime

import orjson

from gateway.connections.building import credential_binding
from gateway.connections.refusals import NEEDS_CREDENTIAL
from gateway.connections.transitions import Transitions
from gateway.credentials.expiry import ends_at
from gateway.credentials.tokens import Tokens
from gateway.credentials.vault import Vault
from gateway.model.access import Caller, Origin
from gateway.model.connection import Trigger
from gateway.model.credential import Credential, TokenGrant
from gateway.model.errors import BadConfiguration, RequestRefused, SealBroken
from gateway.settings import CredentialSettings
from gateway.store import connections, credentials, tokens
from gateway.store.connections import Cause, Locked
from gateway.store.credentials import SealedCredential
from gateway.store.pool import Connection

FILE = "file"
"""The caller that declares: what it gave last is remembered, so that an unchanged file gives nothing again.
"""


class Giving:
    """Each of these works in the caller's transaction, which has the connection's row locked."""

    def __init__(self, vault: Vault, tokens: Tokens, transitions: Transitions, *, digest_key: bytes) -> None:
        self._vault = vault
        self._tokens = tokens
        self._transitions = transitions
        self._digest_key = digest_key

    async def give(
        self,
        connection: Connection,
        connection_id: str,
        customer: str,
        given: CredentialSettings,
        caller: Caller,
        grant: TokenGrant | None = None,
        locked: Locked | None = None,
    ) -> None:
        """`grant`: the tokens of a login, so that the first call need not fetch any. `locked`: the connection
        as it is, where what is there already need not be given again.
        """
        digest = self.digest(given) if caller.name == FILE else None
        generation = None
        if locked is not None and grant is None:
            generation = await self._same_generation(connection, locked, given, caller.origin)
        if generation is None:
            generation = await connections.next_generation(connection, connection_id)
            binding = credential_binding(customer, connection_id, generation)
            await credentials.add(
                connection,
                connection_id=connection_id,
                type=given.type,
                sealed=self._vault.seal(given.resolved(), binding),
                generation=generation,
                expires_at=end_of(given),
                origin=caller.origin,
            )
        if grant is not None:
            credential = Credential(generation=generation, type=given.type, values=given.resolved())
            await self._tokens.adopt(
                connection, connection_id=connection_id, customer=customer, credential=credential, grant=grant
            )
        await connections.note_candidate(
            connection, connection_id, generation=generation, kind=given.type, digest=digest
        )
        await self.verify(connection, connection_id, caller, "credentials were given")

    async def verify(self, connection: Connection, connection_id: str, caller: Caller, reason: str) -> None:
        """What is given is verified next."""
        cause = Cause(reason=reason, request_id=caller.request_id, actor=caller.name)
        await self._transitions.move(connection, connection_id, Trigger.CREDENTIALS_GIVEN, cause)

    def opened(self, connection_id: str, customer: str, stored: SealedCredential) -> CredentialSettings:
        """A stored credential, as it was given. Raises SealBroken."""
        values = self._vault.open(
            stored.sealed, credential_binding(customer, connection_id, stored.generation)
        )
        ends_at = None if stored.expires_at is None else stored.expires_at.isoformat()
        return CredentialSettings.model_validate({"type": stored.type, **values, "expires_at": ends_at})

    async def _same_generation(
        self, connection: Connection, locked: Locked, given: CredentialSettings, origin: Origin
    ) -> int | None:
        """The generation that holds these very credentials already; None where none does. A refresh token in
        two generations would be redeemed twice, which a server that rotates them takes for a theft: so what
        is in use is looked at, too, while another waits to be verified.

        What was refused is tried again as a new generation; a refresh token only where it was itself refused.
        """
        newest = locked.candidate or locked.generation
        for generation in dict.fromkeys((newest, locked.generation)):
            stored = await credentials.read(
                connection, connection_id=locked.connection, generation=generation
            )
            if stored is None or (stored.type, stored.origin) != (given.type, origin):
                continue
            held = self._values(locked.connection, locked.customer, stored)
            if held is None or held != given.resolved():
                continue
            if "refresh_token" in held:
                if await tokens.is_refused(connection, locked.connection, generation):
                    return None
                await credentials.end_at(
                    connection,
                    connection_id=locked.connection,
                    generation=generation,
                    expires_at=end_of(given),
                )
                return generation
            if generation == newest:
                anew = locked.state in NEEDS_CREDENTIAL or stored.expires_at != end_of(given)
                return None if anew else generation
        return None

    def _values(
        self, connection_id: str, customer: str, stored: SealedCredential
    ) -> Mapping[str, str] | None:
        """None where no key opens them any more."""
        binding = credential_binding(customer, connection_id, stored.generation)
        try:
            return self._vault.open(stored.sealed, binding)
        except SealBroken:
            return None

    def digest(self, given: CredentialSettings) -> str:
        """Tells whether credentials are the ones that were given before, and nothing else about them."""
        end = {} if given.expires_at is None else {"expires_at": given.expires_at}
        body = orjson.dumps({**given.resolved(), **end, "type": given.type}, option=orjson.OPT_SORT_KEYS)
        return hmac.new(self._digest_key, body, hashlib.sha256).hexdigest()


def end_of(given: CredentialSettings) -> datetime | None:
    """When they end, as far as they say so. Raises RequestRefused for what is no such time."""
    stated = {} if given.expires_at is None else {"expires_at": given.expires_at}
    try:
        return ends_at(given.type, given.resolved() | stated)
    except BadConfiguration as error:
        raise RequestRefused("request.invalid", str(error)) from error
