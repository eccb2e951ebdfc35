"""What is sealed opens where it was sealed and nowhere else, under every configured key, and never tells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.credentials.vault import Binding, Vault
from gateway.model.errors import ConfigError, SealBroken

HERE = Binding(customer="acme", connection="acme-1", field="credential", generation=1)
CANARY = {"api_key": "canary-7f3a"}


def test_it_opens_where_it_was_sealed() -> None:
    vault = Vault(["new", "old"])
    assert vault.open(vault.seal(CANARY, HERE), HERE) == CANARY
    assert vault.open(Vault(["old"]).seal(CANARY, HERE), HERE) == CANARY
    assert vault.seal(CANARY, HERE) != vault.seal(CANARY, HERE)


@pytest.mark.parametrize(
    "elsewhere",
    [
        Binding(customer="globex", connection="acme-1", field="credential", generation=1),
        Binding(customer="acme", connection="acme-2", field="credential", generation=1),
        Binding(customer="acme", connection="acme-1", field="token", generation=1),
        Binding(customer="acme", connection="acme-1", field="credential", generation=2),
    ],
)
def test_it_opens_nowhere_else(elsewhere: Binding) -> None:
    vault = Vault(["key"])
    sealed = vault.seal(CANARY, HERE)
    with pytest.raises(SealBroken, match=elsewhere.connection):
        vault.open(sealed, elsewhere)
    with pytest.raises(SealBroken):
        vault.reseal(sealed, elsewhere)


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_every_altered_byte_is_noticed(position: int, change: int) -> None:
    vault = Vault(["key"])
    sealed = bytearray(vault.seal(CANARY, HERE))
    sealed[position % len(sealed)] ^= change
    with pytest.raises(SealBroken):
        vault.open(bytes(sealed), HERE)


@given(st.integers(min_value=0, max_value=100))
def test_every_cut_is_noticed(length: int) -> None:
    vault = Vault(["key"])
    with pytest.raises(SealBroken):
        vault.open(vault.seal(CANARY, HERE)[:length], HERE)


def test_resealing_moves_to_the_newest_key_and_leaves_the_values() -> None:
    old, both, new = Vault(["old"]), Vault(["new", "old"]), Vault(["new"])
    resealed = both.reseal(old.seal(CANARY, HERE), HERE)
    assert new.open(resealed, HERE) == CANARY
    with pytest.raises(SealBroken) as caught:
        old.open(resealed, HERE)
    assert new.newest in str(caught.value)
    assert "acme-1" in str(caught.value)
    assert "security.encryption_keys" in str(caught.value)


@pytest.mark.parametrize("keys", [[], [""], ["good", ""]])
def test_it_refuses_to_begin_without_a_key(keys: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"security\.encryption_keys"):
        Vault(keys)


def test_nothing_tells_a_secret() -> None:
    vault = Vault(["canary-of-a-key"])
    sealed = vault.seal(CANARY, HERE)
    assert b"canary" not in sealed
    texts = [repr(vault), str(vars(vault)), vault.newest]
    for attempt in (
        lambda: vault.open(sealed[:-1], HERE),
        lambda: Vault(["other-canary"]).open(sealed, HERE),
    ):
        with pytest.raises(SealBroken) as caught:
            attempt()
        texts.append(str(caught.value))
    assert "canary" not in " ".join(texts)
