"""What a look at the broker means. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gateway.model.diagnosis import Finding, Looked, looked, named, not_made, problem, span, warning

MIN_PACKET_BYTES = 65_536
"""Status documents and events of a large connection are smaller."""

DEVICES_UNSEEN = (
    "whether messages of devices may be read: the gateway's account may not publish as a device;"
    " the check of devices tells when one was heard last"
)
QUEUE_ADVICE = (
    "Mosquitto: raise max_queued_messages and max_queued_bytes (mosquitto/README.md, Sizing the queue);"
    " elsewhere the limit of a session's queue"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFacts:
    """What was seen. `refused`: why no session could be had; then nothing else is known.

    granted: reason codes of the SUBACK by filter. denied: topics that the gateway uses, and what became of a
    message there. kept: of how many messages for a session that was away how many came; None where that was
    not tried. dropped: the broker's own counter; None where it does not tell.
    """

    refused: str | None = None
    max_qos: int = 2
    has_retain: bool = True
    has_identifiers: bool = True
    max_packet_bytes: int | None = None
    session_expiry_seconds: int | None = None
    granted: Mapping[str, int] = field(default_factory=dict)
    denied: Mapping[str, str] = field(default_factory=dict)
    sent: int = 0
    kept: int | None = None
    resumed: bool = True
    dropped: int | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerNeeds:
    """What the configuration counts on. `overlaps`: filters of sources do."""

    url: str
    session_expiry_seconds: float
    allows_qos0: bool
    overlaps: bool


def judge_session(facts: BrokerFacts, wanted: BrokerNeeds) -> Looked:
    """Whether the gateway gets the session that it needs."""
    if facts.refused is not None:
        advice = (
            "start the broker, or correct broker.url, broker.username, broker.password and broker.ca_file"
        )
        return looked([problem(f"no session: {facts.refused}", where=wanted.url, advice=advice)])
    return looked(_of_the_session(facts, wanted))


def judge_access(facts: BrokerFacts, wanted: BrokerNeeds) -> Looked:
    """Whether the gateway's account may subscribe and publish what it has to."""
    if facts.refused is not None:
        return not_made("no session at the broker")
    return looked(
        _of_the_access(facts, wanted),
        [DEVICES_UNSEEN],
    )


def judge_queue(facts: BrokerFacts, wanted: BrokerNeeds) -> Looked:
    """Whether the broker keeps what it accepts for a session that is away."""
    if facts.refused is not None:
        return not_made("no session at the broker")
    return looked(
        _of_the_queue(facts, wanted),
        [
            (
                "whether the queue outlives the broker: MQTT has no question for it; Mosquitto needs"
                " `persistence true`"
            ),
            None if facts.dropped is not None else "how much the broker dropped: it does not tell ($SYS)",
            None if facts.kept is not None else "how much a session's queue holds: it could not be tried",
        ],
    )


def _of_the_session(facts: BrokerFacts, wanted: BrokerNeeds) -> Iterator[Finding]:
    where = wanted.url
    if facts.max_qos < 1 and not wanted.allows_qos0:
        advice = "use a broker, or a listener, that takes QoS 1"
        yield problem("the broker takes QoS 0 only: what it sends can be lost", where=where, advice=advice)
    if not facts.has_retain:
        advice = "allow retained messages: the status of connections and gateway is retained"
        yield problem("the broker keeps no retained messages", where=where, advice=advice)
    if wanted.overlaps and not facts.has_identifiers:
        advice = "write filters that do not overlap, or use a broker with subscription identifiers"
        yield problem(
            "filters of telemetry.sources overlap, and the broker has no subscription identifiers: a message"
            " could come twice",
            where=where,
            advice=advice,
        )
    expiry = facts.session_expiry_seconds
    if expiry is not None and expiry < wanted.session_expiry_seconds:
        advice = "raise the broker's limit, or set broker.session_expiry to what it grants"
        yield warning(
            f"the broker keeps a session for {span(expiry)} only, broker.session_expiry is"
            f" {span(wanted.session_expiry_seconds)}: after a longer outage the queue is gone",
            where=where,
            advice=advice,
        )
    if facts.max_packet_bytes is not None and facts.max_packet_bytes < MIN_PACKET_BYTES:
        advice = f"allow {MIN_PACKET_BYTES} bytes at least (Mosquitto: max_packet_size)"
        yield warning(
            f"the broker takes packets of {facts.max_packet_bytes} bytes at most: documents may not fit",
            where=where,
            advice=advice,
        )


def _of_the_access(facts: BrokerFacts, wanted: BrokerNeeds) -> Iterator[Finding]:
    refused = [name for name, code in facts.granted.items() if code >= 128]
    if refused:
        advice = "let the gateway's account read these topics (mosquitto/acl)"
        yield problem(f"subscriptions are refused: {named(refused)}", where=wanted.url, advice=advice)
    at_qos0 = [name for name, code in facts.granted.items() if code == 0]
    if at_qos0 and not wanted.allows_qos0:
        advice = "let the broker grant QoS 1, or accept the loss with broker.allow_qos0"
        yield problem(
            f"subscriptions are granted at QoS 0, so what is sent can be lost: {named(at_qos0)}",
            where=wanted.url,
            advice=advice,
        )
    for topic, why in facts.denied.items():
        advice = "let the gateway's account read and write everything below broker.topic_root (mosquitto/acl)"
        yield problem(f"{why}: {topic}", where=wanted.url, advice=advice)


def _of_the_queue(facts: BrokerFacts, wanted: BrokerNeeds) -> Iterator[Finding]:
    if not facts.resumed:
        advice = "let the broker keep sessions of clients that are away (MQTT 5, Session Expiry Interval)"
        yield problem(
            "the broker does not keep the session of a client that is away: what is sent meanwhile is lost",
            where=wanted.url,
            advice=advice,
        )
    elif facts.kept is not None and facts.kept < facts.sent:
        yield problem(
            f"of {facts.sent} messages that the broker accepted for a session that was away it kept"
            f" {facts.kept}",
            where=wanted.url,
            advice=QUEUE_ADVICE,
        )
    if facts.dropped:
        yield warning(
            f"the broker has dropped {facts.dropped} messages since its start, of this or of other clients",
            where=f"{wanted.url} $SYS/broker/publish/messages/dropped",
            advice=f"{QUEUE_ADVICE}; the counter begins anew when the broker does",
        )
