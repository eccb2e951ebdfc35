"""What SAP's refusals of a measurement document mean for a reading. Pure.

SAP names the cases in the exceptions of its function module (MEASUREM_DOCUM_RFC_SINGLE_001); which message
numbers an OData service gives for them depends on the release, so the settings can add codes, and a refusal
nobody knows is looked up before it is believed.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from connectors.kit.odata.envelope import ODataFault


class RefusalVerdict(enum.Enum):
    """Of one refusal."""

    DUPLICATE = "duplicate"
    """The point has a document of this very second."""
    FUTURE = "future"
    LOCKED = "locked"
    """Somebody works on the point, or the update failed for now."""
    REFUSED = "refused"
    UNSURE = "unsure"


_BY_NAME: Mapping[str, RefusalVerdict] = MappingProxyType(
    {
        "TIMESTAMP_DUPREC": RefusalVerdict.DUPLICATE,
        "TIMESTAMP_IN_FUTURE": RefusalVerdict.FUTURE,
        "POINT_LOCKED": RefusalVerdict.LOCKED,
        "UPDATE_FAILED": RefusalVerdict.LOCKED,
        **dict.fromkeys(
            (
                "CODE_NOT_FOUND",
                "INDEX_NOT_UNIQUE",
                "INVALID_DATE",
                "INVALID_TIME",
                "POINT_INACTIVE",
                "POINT_NOT_FOUND",
                "TYPE_NOT_FOUND",
                "UNIT_UNFIT",
                "VALUE_MISSING",
                "VALUE_NOT_FLTP",
                "VALUE_OVERFLOW",
                "VALUE_UNFIT",
            ),
            RefusalVerdict.REFUSED,
        ),
    }
)
_WAITING_STATUSES = (408, 409, 423, 425, 429)


def verdict(status: int, fault: ODataFault, configured: Mapping[str, str]) -> RefusalVerdict:
    """By the settings' codes, then by the name that a code ends with, then by the HTTP status. The code and
    its details are all looked at.
    """
    for code in fault.codes:
        if code in configured:
            return RefusalVerdict(configured[code])
    for code in fault.codes:
        if (known := _BY_NAME.get(code.rpartition("/")[2])) is not None:
            return known
    return RefusalVerdict.LOCKED if status >= 500 or status in _WAITING_STATUSES else RefusalVerdict.UNSURE
