"""The catalogue: what can be connected, what it costs, and what must be said to connect it."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from gateway.http.auth import Require, Serving
from gateway.http.documents import CapabilitiesDocument, InboundStreamDocument, SystemDocument, Systems
from gateway.http.ports import CatalogueEntry
from gateway.model.access import Role
from gateway.model.credits import price
from gateway.model.inbound import InboundStream
from gateway.settings import CreditsSettings

router = APIRouter(tags=["systems"])


@router.get("/v1/systems", summary="The catalogue of systems", dependencies=[Depends(Require(Role.VIEWER))])
async def list_systems(serving: Serving) -> Systems:
    """Tier, hosting, price, capabilities, and the JSON Schemas of settings and credentials of every system
    that can be connected.
    """
    return Systems(
        items=tuple(_document(serving.catalogue[name], serving.prices) for name in sorted(serving.catalogue))
    )


def _document(system: CatalogueEntry, prices: CreditsSettings) -> SystemDocument:
    manifest, able = system.manifest, system.manifest.capabilities
    return SystemDocument(
        system=manifest.system,
        title=manifest.title,
        tier=manifest.tier,
        hosting=manifest.hosting,
        credits={hosting: price(prices, tier=manifest.tier, hosting=hosting) for hosting in manifest.hosting},
        capabilities=CapabilitiesDocument(
            push=able.push,
            max_items=able.max_items,
            max_bytes=able.max_bytes,
            order=able.order,
            resolution_seconds=able.resolution.total_seconds(),
            max_backfill_seconds=None if able.max_backfill is None else able.max_backfill.total_seconds(),
            dedup=able.dedup,
            readback=able.readback,
            can_create_meter=able.can_create_meter,
            can_raise_event=able.can_raise_event,
            values=tuple(sorted(able.values)),
            auth=able.auth,
            delivery=able.delivery,
        ),
        raises=dict(manifest.raises),
        streams=tuple(_stream(stream) for stream in manifest.streams),
        reauthorization=manifest.reauthorization,
        settings_schema=dict(system.settings_schema),
        credentials_schema=dict(system.credentials_schema),
    )


def _stream(stream: InboundStream) -> InboundStreamDocument:
    return InboundStreamDocument(
        name=stream.name,
        title=stream.title,
        cursor=stream.cursor,
        key=tuple(stream.key),
        deletions=stream.deletions,
        default=stream.default,
        lists_open=stream.lists_open,
        lookback_seconds=stream.lookback.total_seconds(),
        settle_seconds=stream.settle.total_seconds(),
        example=dict(stream.example),
    )
