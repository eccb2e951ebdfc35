"""One walk through the steps of connecting a system, and the page of a step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from gateway.http.dashboard.rendering import render
from gateway.http.ports import CatalogueEntry
from gateway.http.services import Services
from gateway.model.access import Caller
from gateway.model.draft import Draft
from gateway.store.access import BrowserSession
from gateway.store.connecting import StoredConnectLink

STEPS = ("settings", "credentials", "verify", "meters", "confirm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """One who connects a system, and how far they have come. `session` None: a customer, through `link`."""

    request: Request
    serving: Services
    secret: str
    owner: str
    caller: Caller
    session: BrowserSession | None
    link: StoredConnectLink | None
    draft: Draft
    system: CatalogueEntry

    def to(self, step: str) -> Response:
        """On to another step."""
        return RedirectResponse(f"{self.draft.back}/{step}", status_code=303)

    async def keep(self, draft: Draft) -> Walk:
        """With what was entered."""
        await self.serving.connecting.keep(self.secret, self.owner, draft)
        return replace(self, draft=draft)


def page(walk: Walk, step: str, *, status: int = 200, **values: object) -> Response:
    """The page, with what every step shows beside its own `values`."""
    draft = walk.draft
    return render(
        walk.request,
        f"connect_{step}.html",
        status=status,
        session=walk.session,
        link=walk.link,
        draft=draft,
        step=step,
        steps=STEPS,
        base=draft.back,
        csrf="" if walk.session is None else walk.session.csrf,
        manifest=walk.system.manifest,
        integrator=walk.serving.integrator,
        **{"faults": {}, "said": "", **values},
    )
