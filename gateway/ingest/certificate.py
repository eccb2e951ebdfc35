"""What a host application of Sparkplug tells of itself on one connection: its will, its birth, its death. No
I/O.

Source: Sparkplug 3.0, 4.7 and 5.4.
"""

from __future__ import annotations

import mqtt5
import orjson

from gateway.payloads.sparkplug.topic import NAMESPACE, STATE
from gateway.settings import SparkplugSettings

STATE_ID = 5
"""The packet id of what is told; SUBSCRIBEs and the like have others."""


def state_topic(settings: SparkplugSettings) -> str | None:
    """Where this host tells that it lives; None where it does not."""
    return None if settings.host_id is None else f"{NAMESPACE}/{STATE}/{settings.host_id}"


class StateCertificate:
    """Of a connection that was begun at `at`, in milliseconds since the epoch. Without a topic it says
    nothing.
    """

    def __init__(self, topic: str | None, at: int) -> None:
        self.topic = topic
        self._at = at
        self._stands = topic is not None

    @property
    def has_will(self) -> bool:
        """Whether the broker still has to say that we are gone when the connection ends."""
        return self._stands

    def will(self) -> mqtt5.Will | None:
        """Without a delay: what edge nodes publish while nobody reads is lost, and they keep it if they are
        told.
        """
        if self.topic is None:
            return None
        payload = _state(self._at, online=False)
        return mqtt5.Will(self.topic, payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE, retain=True)

    def birth(self) -> bytes:
        """The packet that says that we live, with the time of the will; empty where it
        is not for us to say.
        """
        return self._packet(self._at, online=True) if self._stands else b""

    def death(self, now: int) -> bytes:
        """The packet that says that we end; then the broker keeps the will to itself."""
        packet = self._packet(now, online=False) if self._stands else b""
        self._stands = False
        return packet

    def _packet(self, at: int, *, online: bool) -> bytes:
        assert self.topic is not None
        return mqtt5.PublishPacket(
            self.topic,
            _state(at, online=online),
            qos=mqtt5.QoS.AT_LEAST_ONCE,
            retain=True,
            packet_id=STATE_ID,
        ).write()


def says_offline(payload: bytes) -> bool:
    """Whether somebody says that the host is gone."""
    try:
        told = orjson.loads(payload)
    except ValueError:
        return False
    return isinstance(told, dict) and told.get("online") is False


def _state(at: int, *, online: bool) -> bytes:
    return orjson.dumps({"online": online, "timestamp": at})
