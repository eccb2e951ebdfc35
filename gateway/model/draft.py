"""A system that is being connected step by step: what was entered so far. Pure. Secrets here are in clear,
and no part of a repr; whoever keeps a draft seals it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.model.connector import Hosting
from gateway.model.credential import TokenGrant
from gateway.model.exchange import RemoteMeter
from gateway.model.verification import Readable, Verdict, Verification

MAX_TRIES = 20
"""Of one draft: whoever needs more begins again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """In the order of the steps: the system, its settings, credentials, the look at the system, meters, how
    much history.
    """

    back: str
    """The path of the steps, for a login at the system to come back to."""
    customer: str
    system: str
    hosting: Hosting
    id: str = ""
    title: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    fixed: Sequence[str] = ()
    """Settings that whoever made the link gave: nobody changes them here."""
    has_settings: bool = False
    """Whether the step of the settings was done, even where it left them empty."""
    credential_type: str = ""
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    client_is_fixed: bool = False
    """Whether whoever made the link gave the OAuth client."""
    grant: TokenGrant | None = None
    """The tokens of a login at the system."""
    granted_at: float = 0.0
    """Epoch seconds of the grant, whose lifetimes count from it."""
    verifier: str = field(default="", repr=False)
    """Of a login under way (PKCE): its code is exchanged with it."""
    verified: Verification | None = None
    """What the system said of exactly these settings and credentials; None: they were not tried."""
    tries: int = 0
    meters: Sequence[Mapping[str, object]] = ()
    initial_days: int = 30

    def with_settings(self, **changed: object) -> Draft:
        """Other settings: what was verified before says nothing of them."""
        return replace(self, verified=None, has_settings=True, **changed)  # type: ignore[arg-type]

    def with_credentials(self, type_: str, values: Mapping[str, str]) -> Draft:
        """Other credentials: neither a login nor a verification of those before counts."""
        return replace(self, credential_type=type_, credentials=dict(values), grant=None, verified=None)

    def aged_grant(self, now: float) -> TokenGrant | None:
        """The tokens of the login, with what is left of their lifetimes."""
        if self.grant is None:
            return None
        age = max(0.0, now - self.granted_at)
        left = [
            None if seconds is None else seconds - age
            for seconds in (self.grant.expires_in_seconds, self.grant.refresh_expires_in_seconds)
        ]
        return replace(self.grant, expires_in_seconds=left[0], refresh_expires_in_seconds=left[1])


def to_document(draft: Draft) -> dict[str, object]:
    """As JSON, secrets and all: to be sealed."""
    plain = {
        name: getattr(draft, name)
        for name in Draft.__dataclass_fields__
        if name not in ("grant", "verified", "settings", "credentials", "fixed", "meters")
    }
    grant, verified = draft.grant, draft.verified
    return {
        **plain,
        "settings": dict(draft.settings),
        "fixed": list(draft.fixed),
        "credentials": dict(draft.credentials),
        "meters": [dict(meter) for meter in draft.meters],
        "grant": (
            None
            if grant is None
            else {name: getattr(grant, name) for name in TokenGrant.__dataclass_fields__}
        ),
        "verified": (
            None
            if verified is None
            else {
                **{name: getattr(verified, name) for name in Verification.__dataclass_fields__},
                "records": [[one.stream, one.title, one.detail] for one in verified.records],
                "meters": (
                    None
                    if verified.meters is None
                    else [[one.meter, one.title, one.unit] for one in verified.meters]
                ),
            }
        ),
    }


def from_document(document: Mapping[str, object]) -> Draft:
    """What `to_document` wrote."""
    values: dict[str, object] = {**document}
    grant, verified = values.pop("grant"), values.pop("verified")
    if isinstance(grant, Mapping):
        values["grant"] = TokenGrant(**grant)
    if isinstance(verified, Mapping):
        meters = verified["meters"]
        values["verified"] = Verification(
            **{
                **verified,
                "verdict": Verdict(verified["verdict"]),
                "records": tuple(
                    Readable(stream=stream, title=title, detail=detail)
                    for stream, title, detail in verified["records"]
                ),
                "meters": (
                    None
                    if meters is None
                    else tuple(
                        RemoteMeter(meter=meter, title=title, unit=unit) for meter, title, unit in meters
                    )
                ),
            }
        )
    return Draft(**values)  # type: ignore[arg-type]
