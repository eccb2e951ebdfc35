"""Seals what is stored of a credential: AES-256-GCM under a data key of each record's own, which is wrapped
by a key of the configuration.

A record opens only where it was sealed: customer, connection, field and generation are authenticated with it
(ADR 10). It must not know where records are stored.

A record is: version (1 byte), key id (4 bytes), nonce and wrapped data key (12 + 48), nonce (12), the sealed
values. Source: NIST SP 800-38D (GCM); RFC 5869 (HKDF).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.model.errors import ConfigError, SealBroken

_VERSION = 1
_KEY_ID_BYTES, _NONCE_BYTES, _WRAPPED_BYTES = 4, 12, 48
_HEADER_BYTES = 1 + _KEY_ID_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Where a record belongs. `field` says which of the connection's secrets it is: `credential`, `token`,
    ...
    """

    customer: str
    connection: str
    field: str
    generation: int

    def authenticated(self) -> bytes:
        """Additional data: no two bindings have the same."""
        return orjson.dumps([self.customer, self.connection, self.field, self.generation])


class Vault:
    """Seals under the newest key, opens under any that is configured. Never logs, and no error repeats a
    secret.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        """`keys` are the texts of `security.encryption_keys`, newest first. Raises ConfigError when there is
        none.
        """
        if not keys or not all(keys):
            raise ConfigError(
                "security.encryption_keys: a key is needed to store credentials; make one with `fieldgate"
                " keys generate`"
            )
        self._keys = {
            _derive(key, b"id", _KEY_ID_BYTES): AESGCM(_derive(key, b"wrapping", 32))
            for key in reversed(keys)
        }
        self._newest = _derive(keys[0], b"id", _KEY_ID_BYTES)

    def __repr__(self) -> str:
        return f"Vault(newest={self.newest})"

    @property
    def newest(self) -> str:
        """Id of the key that seals."""
        return self._newest.hex()

    @property
    def key_ids(self) -> frozenset[str]:
        """Ids of the keys that open."""
        return frozenset(key_id.hex() for key_id in self._keys)

    @staticmethod
    def key_of(sealed: bytes) -> str:
        """Id of the key that seals this record."""
        return sealed[1:_HEADER_BYTES].hex()

    def seal(self, values: Mapping[str, str], binding: Binding) -> bytes:
        """A record that opens with the same binding only. Two of the same values differ."""
        data_key, nonce = AESGCM.generate_key(256), secrets.token_bytes(_NONCE_BYTES)
        return (
            self._wrap(data_key, binding)
            + nonce
            + AESGCM(data_key).encrypt(nonce, orjson.dumps(dict(values)), binding.authenticated())
        )

    def open(self, sealed: bytes, binding: Binding) -> dict[str, str]:
        """The values. Raises SealBroken."""
        data_key, rest = self._unwrap(sealed, binding)
        try:
            text = AESGCM(data_key).decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], binding.authenticated())
        except (InvalidTag, ValueError):
            raise self._altered(binding) from None
        values = orjson.loads(text)
        assert isinstance(values, dict)
        return values

    def reseal(self, sealed: bytes, binding: Binding) -> bytes:
        """The same record with its data key wrapped by the newest key; the values are not opened. Raises
        SealBroken.
        """
        data_key, rest = self._unwrap(sealed, binding)
        return self._wrap(data_key, binding) + rest

    def _wrap(self, data_key: bytes, binding: Binding) -> bytes:
        header, nonce = bytes([_VERSION]) + self._newest, secrets.token_bytes(_NONCE_BYTES)
        return (
            header
            + nonce
            + self._keys[self._newest].encrypt(nonce, data_key, header + binding.authenticated())
        )

    def _unwrap(self, sealed: bytes, binding: Binding) -> tuple[bytes, bytes]:
        header, nonce_end = sealed[:_HEADER_BYTES], _HEADER_BYTES + _NONCE_BYTES
        if len(header) < _HEADER_BYTES or header[0] != _VERSION:
            raise self._altered(binding)
        key = self._keys.get(header[1:])
        if key is None:
            raise SealBroken(
                f"connection {binding.connection!r}: its stored {binding.field} is sealed under the key"
                f" {header[1:].hex()}, which is not among security.encryption_keys"
                f" ({', '.join(sorted(self.key_ids))}): put that key back at the end of the list, or give the"
                " credentials again"
            )
        try:
            data_key = key.decrypt(
                sealed[_HEADER_BYTES:nonce_end],
                sealed[nonce_end : nonce_end + _WRAPPED_BYTES],
                header + binding.authenticated(),
            )
        except (InvalidTag, ValueError):
            raise self._altered(binding) from None
        return data_key, sealed[nonce_end + _WRAPPED_BYTES :]

    @staticmethod
    def _altered(binding: Binding) -> SealBroken:
        return SealBroken(
            f"connection {binding.connection!r}: its stored {binding.field} (generation {binding.generation})"
            " was not sealed for it or was altered: restore the row from a backup, or give the credentials"
            " again"
        )


def _derive(key: str, purpose: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=b"fieldgate.vault.v1 " + purpose).derive(
        key.encode()
    )
