"""What a look at clocks, certificates, credentials and keys means: whether others believe us, and whether we
can open what we sealed. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.model.diagnosis import Finding, Looked, looked, named, problem, span, warning

SKEW_SECONDS = 60.0
"""Of a system: many refuse readings that are younger than their clock."""

CERTIFICATE_DAYS = 21
CREDENTIAL_DAYS = 14
"""How long ahead the end of one is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """`ends_at` None: `fault` says why it could not be read."""

    where: str
    ends_at: datetime | None
    fault: str | None = None


def judge_systems_clocks(skews: Mapping[str, float | None]) -> Looked:
    """By address: how many seconds a system's clock is ahead of ours; None where it did not say."""
    advice = (
        "let the system and this machine follow time servers; readings that lie in a system's future are"
        " refused"
    )
    found = [
        warning(
            f"the system's clock is {span(abs(skew))} {'ahead of' if skew > 0 else 'behind'} this machine's",
            where=where,
            advice=advice,
        )
        for where, skew in skews.items()
        if skew is not None and abs(skew) > SKEW_SECONDS
    ]
    silent = [where for where, skew in skews.items() if skew is None]
    return looked(found, [f"clocks of {named(silent)}: no answer with a Date"] if silent else [])


def judge_certificates(certificates: Iterable[Certificate], unseen: Sequence[str], now: datetime) -> Looked:
    """Whether any has ended or ends soon."""
    found: list[Finding] = []
    for each in certificates:
        advice = "renew it and put it where it was (mosquitto/provision makes the broker's)"
        if each.ends_at is None:
            found.append(
                problem(
                    f"no certificate can be read: {each.fault}",
                    where=each.where,
                    advice="name a PEM file that the gateway's user can read",
                )
            )
        elif each.ends_at <= now:
            found.append(
                problem(f"the certificate ended {each.ends_at:%Y-%m-%d}", where=each.where, advice=advice)
            )
        elif each.ends_at - now < timedelta(days=CERTIFICATE_DAYS):
            days = (each.ends_at - now).days
            found.append(
                warning(
                    f"the certificate ends in {days} days, {each.ends_at:%Y-%m-%d}",
                    where=each.where,
                    advice=advice,
                )
            )
    return looked(found, unseen)


def judge_credentials(ending: Iterable[tuple[str, str, datetime]], now: datetime) -> Looked:
    """(connection, type, end) of credentials in use."""
    return looked(
        (problem if ends_at <= now else warning)(
            f"the credential ({kind}) {'ended' if ends_at <= now else 'ends'} {ends_at:%Y-%m-%d %H:%M}Z",
            where=f"connection {connection}",
            advice=(
                f"give a new one: `fieldgate connections reauthorize {connection}` makes a link for the"
                " customer"
            ),
        )
        for connection, kind, ends_at in ending
    )


def judge_keys(in_use: Iterable[tuple[str, int, str]], configured: frozenset[str]) -> Looked:
    """(key id, records, one connection) of what is sealed."""
    return looked(
        problem(
            f"{records} records are sealed under the key {key}, which is not configured: they cannot be"
            " opened",
            where=f"security.encryption_keys; connection {connection} is one of them",
            advice="put that key back at the end of the list; `fieldgate keys` shows what is in use",
        )
        for key, records, connection in in_use
        if key not in configured
    )
