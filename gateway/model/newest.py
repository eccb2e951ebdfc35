"""The newest stored sample of each device: what is later than it cannot be stored already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.model.sample import Metrics

Device = tuple[str, str]
"""customer, device."""

Batch = Mapping[Device, Sequence[tuple[tuple[str, str, int], Metrics, int]]]
"""By device, in the order of times: key (customer, device, microseconds of time), metrics, receipt."""


class Newest:
    """The times of the newest samples, as far as one writer can tell.

    It can be wrong: of a device that it has not met it knows nothing, and takes the first samples that were
    all new for the newest; and others write now and then (a replay, say). So the key of the table decides.
    """

    def __init__(self) -> None:
        self._known: dict[Device, int] = {}

    def take(self, batch: Batch) -> dict[Device, int]:
        """What is known of its devices, and is forgotten until `put`: whether a write that failed, or was
        cancelled, did come to its commit is not known.
        """
        return {device: at for device in batch if (at := self._known.pop(device, None)) is not None}

    def put(self, batch: Batch, known: Mapping[Device, int], *, is_new: bool) -> None:
        """The batch is stored. `known`: what `take` gave; `is_new`: none of its samples was there before."""
        for device, theirs in batch.items():
            before, last = known.get(device), theirs[-1][0][2]
            if before is not None:
                self._known[device] = max(before, last)
            elif is_new:  # else it is being sent again, and what follows may be there as well
                self._known[device] = last


def is_later(batch: Batch, known: Mapping[Device, int]) -> bool:
    """Whether each sample is later than what is known to be the newest one of its device."""
    return len(known) == len(batch) and all(
        theirs[0][0][2] > known[device] for device, theirs in batch.items()
    )
