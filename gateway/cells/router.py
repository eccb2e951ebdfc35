"""A configuration of haproxy that leads each request of the API to the cell that has the customer. Two maps,
by customer and by connection, can be renewed while it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from urllib.parse import urlsplit

from gateway.cells.survey import CellAnswer
from gateway.model.errors import ConfigError

HEADER = "Fieldgate-Customer"

_BACKEND = """
backend {name}
    option httpchk GET /readyz
    server {name} {address}{tls} check
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """Three files of one folder."""

    configuration: str
    customers: str
    connections: str

    @property
    def contents(self) -> Mapping[str, str]:
        """By name."""
        return {
            "haproxy.cfg": self.configuration,
            "customers.map": self.customers,
            "connections.map": self.connections,
        }


def make(answers: Sequence[CellAnswer], *, bind: str) -> Router:
    """For cells that all answered: of one that did not nobody knows whom it has. Raises ConfigError for it,
    and for a customer that two of them have.
    """
    for answer in answers:
        if answer.fault is not None:
            raise ConfigError(f"cell {answer.cell.name}: {answer.fault}; no router is made without it")
    customers: dict[str, str] = {}
    connections: dict[str, str] = {}
    for answer in answers:
        for customer in sorted({*answer.connections.values(), *answer.cell.customers}):
            if customers.setdefault(customer, answer.cell.name) != answer.cell.name:
                raise ConfigError(
                    f"customer {customer!r} is in the cells {customers[customer]} and {answer.cell.name}:"
                    " finish its move, or take it out of the file of cells"
                )
        connections |= dict.fromkeys(answer.connections, answer.cell.name)
    return Router(
        configuration=_top(bind) + "".join(_backend(answer) for answer in answers),
        customers=_map(customers),
        connections=_map(connections),
    )


def _top(bind: str) -> str:
    text = files("gateway.cells").joinpath("haproxy.cfg").read_text(encoding="utf-8")
    return Template(text).substitute(bind=bind, header=HEADER)


def _backend(answer: CellAnswer) -> str:
    url = urlsplit(answer.cell.url)
    is_tls = url.scheme == "https"
    port = url.port or (443 if is_tls else 80)
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    tls = f" ssl verify required ca-file @system-ca sni str({url.hostname})" if is_tls else ""
    return _BACKEND.format(name=answer.cell.name, address=f"{host}:{port}", tls=tls)


def _map(found: Mapping[str, str]) -> str:
    return "".join(f"{name} {cell}\n" for name, cell in sorted(found.items()))
