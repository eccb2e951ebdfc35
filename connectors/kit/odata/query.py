"""Targets of OData requests, and what their answers list. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote, urlsplit

from connectors.kit.odata.values import Version, instant_literal
from gateway.model.errors import Unavailable


def target(
    entity_set: str,
    *,
    where: str = "",
    select: Sequence[str] = (),
    order: Sequence[str] = (),
    top: int | None = None,
    extra: Mapping[str, str] | None = None,
) -> str:
    """A path relative to the service with its query, percent-encoded. `where` is a filter of literals, not
    yet encoded.
    """
    options = {
        "$filter": where,
        "$select": ",".join(select),
        "$orderby": ",".join(order),
        "$top": "" if top is None else str(top),
        **(extra or {}),
    }
    query = "&".join(f"{name}={quote(value, safe=',:')}" for name, value in options.items() if value)
    return f"{quote(entity_set)}?{query}" if query else quote(entity_set)


def modified_within(version: Version, name: str, since: datetime | None, until: datetime) -> str:
    """A filter for [since, until) on the property that bears the time of the last change."""
    upper = f"{name} lt {instant_literal(version, until)}"
    return upper if since is None else f"{name} ge {instant_literal(version, since)} and {upper}"


def rows_of(document: object) -> Sequence[Mapping[str, object]] | None:
    """The entities that an answer lists, of either version; None for an answer that lists none, as an error
    does.
    """
    if not isinstance(document, dict):
        return None
    rows = document.get("value")
    if rows is None:
        rows = document.get("d")
        rows = rows.get("results") if isinstance(rows, dict) else rows
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else None


def entity_of(document: object) -> Mapping[str, object]:
    """The entity of an answer that holds one, of either version; empty for anything else."""
    if not isinstance(document, dict):
        return {}
    inner = document.get("d")
    return inner if isinstance(inner, dict) else document


def next_of(document: object, *, entity_set: str) -> str | None:
    """The target of the next page, relative to the service; None on the last page.

    A link may bear the host's inner name, so only its end is used; a link to another set is Unavailable,
    never followed.
    """
    inner = document.get("d", document) if isinstance(document, dict) else None
    link = (inner.get("@odata.nextLink") or inner.get("__next")) if isinstance(inner, dict) else None
    if not isinstance(link, str) or not link:
        return None
    try:
        parts = urlsplit(link)
    except ValueError:
        raise Unavailable("the system's list goes on at what is no address") from None
    if parts.path.rstrip("/").rpartition("/")[2] != quote(entity_set):
        raise Unavailable("the system's list goes on in another place than it began")
    return f"{quote(entity_set)}?{parts.query}"
