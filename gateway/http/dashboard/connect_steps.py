"""The steps of connecting a system, from its settings to the confirmation: what each shows, and what it makes
of what was entered. A refusal is a sentence at the field that it is about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import Response
from fastapi.responses import RedirectResponse

from gateway.connections.login_page import CODE_FLOW, Login, redirect_uri
from gateway.http.auth import check_tries, note_try
from gateway.http.dashboard.connect_meters import meters_page, take_meters
from gateway.http.dashboard.connect_walk import Walk, page
from gateway.http.dashboard.credential_form import (
    FieldFault,
    faults_by_field,
    form_fields,
    form_values,
    sentence,
)
from gateway.http.dashboard.departing import LOGINS, departed
from gateway.http.dashboard.settings_form import setting_fields, setting_values
from gateway.model.credits import price
from gateway.model.draft import Draft
from gateway.model.errors import RequestRefused
from gateway.settings_base import IDENTIFIER

MAX_DAYS = 90


async def show(walk: Walk, step: str) -> Response:
    """The step, or the first one that is to be done before it."""
    draft = walk.draft
    if step != "settings" and not draft.has_settings:
        return walk.to("settings")
    if step == "verify" and not draft.credential_type:
        return walk.to("credentials")
    if step in ("meters", "confirm") and (draft.verified is None or not draft.verified.is_good):
        return walk.to("verify" if draft.credential_type else "credentials")
    match step:
        case "settings":
            return _settings_page(walk)
        case "credentials":
            return _credentials_page(walk, walk.request.query_params.get("as", ""))
        case "verify":
            return _verify_page(walk)
        case "meters":
            return await meters_page(walk)
        case _:
            return await _confirm_page(walk)


async def take(walk: Walk, step: str, given: Mapping[str, str]) -> Response:
    """What was entered, and on to the next step; or the same one again, with what is wrong."""
    if step != "settings" and not walk.draft.has_settings:
        return walk.to("settings")
    match step:
        case "settings":
            return await _take_settings(walk, given)
        case "credentials":
            return await _take_credentials(walk, given)
        case "verify":
            return await _try(walk)
        case "meters":
            return await take_meters(walk, given)
        case _:
            return await _take_confirm(walk, given)


# Settings


def _settings_page(
    walk: Walk,
    *,
    typed: Mapping[str, str] | None = None,
    faults: Mapping[str, str] | None = None,
    said: str = "",
) -> Response:
    found = setting_fields(
        walk.system.settings_schema, walk.draft.settings, without=walk.draft.fixed, typed=typed
    )
    wrong = dict(faults or {})
    return page(
        walk,
        "settings",
        status=200 if faults is None and not said else 409,
        fields=[field for field in found if not field.is_further],
        further=[field for field in found if field.is_further],
        faults=wrong,
        said=said or wrong.pop("", ""),
    )


async def _take_settings(walk: Walk, given: Mapping[str, str]) -> Response:
    draft = walk.draft
    found = setting_fields(walk.system.settings_schema, {}, without=draft.fixed)
    values, faults = setting_values(found, given)
    fixed = {name: draft.settings[name] for name in draft.fixed}
    wanted = {**values, **fixed}
    changed = wanted != draft.settings or not draft.has_settings
    draft = draft.with_settings(settings=wanted) if changed else draft
    try:
        bare = replace(draft, credential_type="", credentials={}, meters=())
        await walk.serving.connecting.check(bare, walk.caller, credentials=False)
    except RequestRefused as error:
        faults = faults_by_field(error, "settings") | faults
    if faults:
        return _settings_page(walk, typed=given, faults=faults)
    return (await walk.keep(draft)).to("credentials")


# Credentials


def _credentials_page(
    walk: Walk, wanted: str, *, faults: Mapping[str, str] | None = None, said: str = "", status: int = 200
) -> Response:
    draft, types = walk.draft, walk.system.manifest.capabilities.auth
    if draft.client_is_fixed:
        types = (CODE_FLOW,)
    chosen = wanted if wanted in types else draft.credential_type or types[0]
    login = walk.request.query_params.get("login", "")
    wrong = dict(faults or {})
    return page(
        walk,
        "credentials",
        status=status,
        types=types,
        type=chosen,
        fields=form_fields(walk.system.credentials_schema, chosen),
        is_given=chosen == draft.credential_type and bool(draft.credentials),
        by_login=chosen == CODE_FLOW,
        redirect_uri=redirect_uri(walk.serving.public_url),
        login=next((text for outcome, text in LOGINS.items() if outcome == login), ""),
        faults=wrong,
        said=said or wrong.pop("", ""),
    )


async def _take_credentials(walk: Walk, given: Mapping[str, str]) -> Response:
    draft, types = walk.draft, walk.system.manifest.capabilities.auth
    kind = CODE_FLOW if draft.client_is_fixed else given.get("as", "")
    if kind not in types:
        return _credentials_page(walk, "", said="Choose how to log in.", status=409)
    try:
        draft = _with_given(walk, kind, given)
        await walk.serving.connecting.check(draft, walk.caller, credentials=True)
    except RequestRefused as error:
        faults = faults_by_field(error, "credentials")
        return _credentials_page(walk, kind, faults=faults, status=409)
    walk = await walk.keep(draft)
    if kind == CODE_FLOW and draft.grant is None:
        try:
            departure = await walk.serving.connecting.depart(walk.secret, walk.owner, draft)
        except RequestRefused as error:
            return _credentials_page(walk, kind, faults=faults_by_field(error, "credentials"), status=409)
        return departed(walk.request, walk.serving, departure)
    return await _try(walk)


def _with_given(walk: Walk, kind: str, given: Mapping[str, str]) -> Draft:
    """Raises FieldFault. What was given already stays where every field is left empty."""
    draft = walk.draft
    if draft.client_is_fixed:
        return draft.with_credentials(CODE_FLOW, draft.credentials)
    fields = form_fields(walk.system.credentials_schema, kind)
    is_empty = not any(given.get(field.name, "").strip() for field in fields)
    if is_empty and kind == draft.credential_type and draft.credentials:
        return draft.with_credentials(kind, draft.credentials)
    return draft.with_credentials(kind, form_values(fields, given) if fields else {})


# Verification


async def _try(walk: Walk) -> Response:
    """Asks the system; a refusal is shown where the credentials are given."""
    if not walk.draft.credential_type:
        return walk.to("credentials")
    try:
        check_tries(walk.request)
        tried = await walk.serving.connecting.verify(walk.secret, walk.owner, walk.draft, walk.caller)
    except RequestRefused as error:
        faults = faults_by_field(error, "credentials")
        if not isinstance(error, FieldFault) and set(faults) == {""}:
            return _credentials_page(walk, walk.draft.credential_type, said=sentence(str(error)), status=409)
        return _credentials_page(walk, walk.draft.credential_type, faults=faults, status=409)
    note_try(walk.request, tried.verified)
    return replace(walk, draft=tried).to("verify")


def _verify_page(walk: Walk) -> Response:
    return page(
        walk,
        "verify",
        has_login=walk.draft.credential_type != CODE_FLOW or walk.draft.grant is not None,
        login=walk.request.query_params.get("login", ""),
        logins={str(outcome): text for outcome, text in LOGINS.items()},
        handed_over=str(Login.HANDED_OVER),
    )


# Confirmation


async def _confirm_page(
    walk: Walk, *, faults: Mapping[str, str] | None = None, typed: Mapping[str, str] | None = None
) -> Response:
    draft, manifest = walk.draft, walk.system.manifest
    cost = price(walk.serving.prices, tier=manifest.tier, hosting=draft.hosting)
    shown: dict[str, Any] = {
        "id": draft.id,
        "title": draft.title,
        "days": str(draft.initial_days),
        **(typed or {}),
    }
    wrong = dict(faults or {})
    return page(
        walk,
        "confirm",
        status=409 if faults else 200,
        cost=cost,
        credits=None if walk.session is None else await walk.serving.credits.total(draft.customer),
        pool=(
            None
            if walk.session is None
            else await walk.serving.credits.total(walk.session.principal.customer)
        ),
        max_days=MAX_DAYS,
        shown=shown,
        faults=wrong,
        said=wrong.pop("", ""),
    )


async def _take_confirm(walk: Walk, given: Mapping[str, str]) -> Response:
    if walk.draft.verified is None or not walk.draft.verified.is_good:
        return walk.to("verify")
    draft, faults = walk.draft, {}
    title, days = given.get("title", "").strip(), given.get("days", "").strip()
    name = given.get("id", "").strip() if walk.session is not None else draft.id
    if not re.fullmatch(IDENTIFIER, name):
        faults["id"] = (
            "An id begins with a letter or digit, and has letters, digits, dots, dashes and underscores: 64"
            " at most."
        )
    if len(title) > 120 or not title.isprintable():
        faults["title"] = "A name is one line of at most 120 characters."
    if not days.isdecimal() or int(days[:4]) > MAX_DAYS:
        faults["days"] = f"Give a number of days from 0 to {MAX_DAYS}."
    if faults:
        return await _confirm_page(walk, faults=faults, typed=given)
    draft = replace(draft, id=name, title=title, initial_days=int(days))
    walk = await walk.keep(draft)
    try:
        made = await walk.serving.connecting.finish(
            walk.secret,
            walk.owner,
            draft,
            walk.caller,
            link=None if walk.link is None else walk.link.id,
        )
    except RequestRefused as error:
        field = "id" if error.code == "request.conflict" and error.connection == name else ""
        return await _confirm_page(walk, faults={field: sentence(str(error))}, typed=given)
    if walk.link is not None:
        return RedirectResponse(f"/connect/link/{walk.secret}", status_code=303)
    return RedirectResponse(f"/connections/{made}/first-sync", status_code=303)
