"""MQTT in: broker sessions, decoding, group commit, acknowledgement after COMMIT. The only room that knows
the wire protocol.
"""

from gateway.ingest.service import Ingest

__all__ = ["Ingest"]
