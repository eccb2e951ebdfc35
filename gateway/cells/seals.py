"""What is sealed of a customer, on its way from one gateway's keys to another's: each data key is wrapped
anew, and no value is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.connections.connecting import draft_binding
from gateway.credentials.endpoint_secrets import endpoint_binding
from gateway.credentials.vault import Binding, Vault
from gateway.store.arriving import INCOMING
from gateway.store.moving import DEPARTED, where
from gateway.store.moving_tables import SEALED, TABLES
from gateway.store.pool import Connection, Record, Session

_KEYS: Mapping[str, tuple[str, ...]] = {
    "credential": ("connection_id", "generation"),
    "token": ("connection_id", "generation"),
    "webhook_endpoint": ("endpoint_id",),
    "connect_link": ("link_id",),
}


class Seals:
    """`vault` opens what the source sealed, and seals as its newest key does."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    async def read(self, connection: Connection, customer: str) -> list[dict[str, object]]:
        """Every sealed value of the customer that was kept aside, sealed anew. Raises SealBroken."""
        found: list[dict[str, object]] = []
        for table in (table for table in TABLES if table.name in SEALED):
            rows = await connection.fetch(
                f"select * from {DEPARTED}{table.name} where {where(table, DEPARTED)}", customer
            )
            for row in rows:
                for column in SEALED[table.name]:
                    if row[column] is not None:
                        sealed = self._vault.reseal(row[column], _binding(table.name, column, row, customer))
                        found.append(
                            {
                                "table": table.name,
                                "column": column,
                                "key": [row[name] for name in _KEYS[table.name]],
                                "sealed": sealed.hex(),
                            }
                        )
        return found

    async def put(self, session: Session, customer: str, given: Sequence[Mapping[str, object]]) -> None:
        """Seals the values of an archive anew, in the temporary tables. Raises SealBroken, and ValueError for
        one that is of none of their rows.
        """
        for one in given:
            table, column, key = str(one["table"]), str(one["column"]), one["key"]
            if (
                column not in SEALED.get(table, ())
                or not isinstance(key, list)
                or len(key) != len(_KEYS[table])
            ):
                raise ValueError(f"a sealed {column!r} of {table!r} is none that an archive has")
            condition = " and ".join(f"{name} = ${place}" for place, name in enumerate(_KEYS[table], 1))
            row = await session.fetchrow(f"select * from {INCOMING}{table} where {condition}", *key)
            if row is None:
                raise ValueError(f"a sealed {column!r} is of a row of {table!r} that is not there")
            binding = _binding(table, column, row, customer)
            sealed = self._vault.reseal(bytes.fromhex(str(one["sealed"])), binding)
            await session.execute(
                f"update {INCOMING}{table} set {column} = ${len(key) + 1} where {condition}", *key, sealed
            )


def _binding(table: str, column: str, row: Record, customer: str) -> Binding:
    match table:
        case "webhook_endpoint":
            return endpoint_binding(row["endpoint_id"], row["generation"] - (column == "previous_secret"))
        case "connect_link":
            return draft_binding(customer, row["hash"])
        case _:
            return Binding(
                customer=customer,
                connection=row["connection_id"],
                field=table,
                generation=row["generation"],
            )
