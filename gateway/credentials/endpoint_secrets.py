"""Seals the secrets of webhook endpoints with the vault, each for its endpoint and its generation. Must not
know how webhooks are sent.
"""

from __future__ import annotations

import dataclasses

import structlog

from gateway.credentials.vault import Binding, Vault
from gateway.model.errors import SealBroken
from gateway.store import webhooks
from gateway.store.pool import Database

log = structlog.get_logger(__name__)


class EndpointSealer:
    """What `gateway.events.webhooks` asks for as its Sealer."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def seal(self, secret: str, *, endpoint: str, generation: int) -> bytes:
        """A record that opens for the same endpoint and generation only."""
        return self._vault.seal({"secret": secret}, endpoint_binding(endpoint, generation))

    def open(self, sealed: bytes, *, endpoint: str, generation: int) -> str:
        """The secret. Raises SealBroken."""
        return self._vault.open(sealed, endpoint_binding(endpoint, generation))["secret"]


async def rotate(database: Database, vault: Vault) -> int:
    """Brings every secret under the newest key; how many endpoints had an older one. What cannot be opened is
    logged and left.
    """
    changed = 0
    for endpoint, held in await webhooks.read(database):
        if all(
            vault.key_of(sealed) == vault.newest
            for sealed in (held.secret, held.previous)
            if sealed is not None
        ):
            continue
        try:
            secret = vault.reseal(held.secret, endpoint_binding(endpoint.id, held.generation))
            previous = (
                None
                if held.previous is None
                else vault.reseal(held.previous, endpoint_binding(endpoint.id, held.generation - 1))
            )
        except SealBroken as error:
            log.error("credential.endpoint_reseal_failed", endpoint=endpoint.id, detail=str(error))
            continue
        await webhooks.reseal(
            database, endpoint.id, dataclasses.replace(held, secret=secret, previous=previous)
        )
        changed += 1
    return changed


def endpoint_binding(endpoint: str, generation: int) -> Binding:
    """Of the secret of an endpoint."""
    return Binding(customer="", connection=endpoint, field="webhook", generation=generation)
