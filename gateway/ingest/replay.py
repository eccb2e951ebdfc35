"""Tries a dead message again: by the decoder that refused it, since rules and customers may have changed."""

from __future__ import annotations

from datetime import datetime

from gateway.ingest import sparkplug
from gateway.ingest.decode import Decoder, Row
from gateway.ingest.sparkplug import Mail
from gateway.model.errors import DecodeError, RequestRefused
from gateway.model.sample import Metrics, to_microseconds
from gateway.payloads.formats.values import Reason
from gateway.payloads.sources import compile_sources
from gateway.payloads.sparkplug.node import Node
from gateway.settings import Settings
from gateway.store import dead_letters
from gateway.store import sparkplug as sparkplug_store
from gateway.store.pool import Database
from gateway.store.telemetry import Key, TelemetryStore


async def replay_message(settings: Settings, database: Database, dead_letter: int, *, now: datetime) -> int:
    """Stores its samples, then lets go of the letter; how many samples. Done twice it changes nothing more.

    A sample without a time of its own takes the time at which the message was first received. Raises
    RequestRefused, StoreError.
    """
    kept = await dead_letters.read(database, dead_letter)
    if kept is None or kept.kind != "message":
        raise RequestRefused("request.not_found", f"there is no dead message {dead_letter}")
    if kept.reason == Reason.OVERSIZED_PACKET:
        raise RequestRefused(
            "request.conflict", f"dead letter {dead_letter}: only the first bytes of the message were kept"
        )
    sources = compile_sources(settings.telemetry.sources)
    decoder = Decoder(settings.telemetry, sources, settings.customers)
    received_at = to_microseconds(kept.first_at)
    decoder.customer_of(kept.topic)  # a topic that it has met
    mail = decoder.mail_of(kept.topic)
    try:
        try:
            if mail is None:
                rows = decoder.decode(kept.topic, kept.payload, received_at)
            else:
                rows = await _recalled(database, decoder, mail, kept.topic, kept.payload, received_at)
        except DecodeError as error:
            if error.reason != Reason.TIMESTAMP_IN_FUTURE:
                raise
            # it has a time, which may have come
            if mail is None:
                rows = decoder.decode(kept.topic, kept.payload, to_microseconds(now))
            else:
                rows = await _recalled(
                    database, decoder, mail, kept.topic, kept.payload, to_microseconds(now)
                )
    except DecodeError as error:
        raise RequestRefused(
            "request.conflict", f"dead letter {dead_letter} still cannot be parsed: {error}"
        ) from error
    samples: dict[Key, Metrics] = {}
    for customer, device, at, metrics in rows:
        samples[customer, device, at] = {**samples.get((customer, device, at), {}), **metrics}
    store = TelemetryStore(
        database,
        register_customers=settings.telemetry.auto_register_customers,
        max_devices=settings.telemetry.max_devices,
    )
    await store.write([(key, metrics, received_at) for key, metrics in samples.items()], ())
    await dead_letters.remove(database, dead_letter, kept)
    return len(samples)


async def _recalled(
    database: Database, decoder: Decoder, mail: Mail, topic: str, payload: bytes, received_at: int
) -> list[Row]:
    """The samples of a message of Sparkplug, by what is stored of its node. Raises
    DecodeError, StoreError.
    """
    nodes = await sparkplug_store.load(database, [mail.node])
    message = sparkplug.arrival(mail, topic, payload, received_at)
    return list(sparkplug.recall(nodes.get(mail.node) or Node(), mail, message, decoder.bounds).rows)
