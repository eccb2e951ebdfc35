"""Payload formats: bytes to (time, metrics) pairs. A new format is a module here and a line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.payloads.formats import json, scalar
from gateway.payloads.formats.values import Measurement

Parse = Callable[[bytes, str | None], list[Measurement]]

FORMATS: Mapping[str, Parse] = {"json": json.parse, "scalar": scalar.parse}
