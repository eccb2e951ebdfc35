"""Which of several addresses is tried next. Pure: whoever connects tells how it went."""

from __future__ import annotations

from collections.abc import Sequence


class Rotation:
    """Addresses in the order in which they are wanted. `current` is the one to use or to try.

    What goes on is decided in one place, for every session alike. After a connection that lasted the next
    round begins at the first, so that a list has an order. One that was let in and thrown out again goes on
    with the next: an address that accepts everybody and serves nobody would be tried for ever.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        """At least one."""
        self._addresses = tuple(addresses)
        self._place = 0
        self._tried = 0

    @property
    def current(self) -> str:
        """The address in use, or the one to try."""
        return self._addresses[self._place]

    @property
    def earlier(self) -> tuple[str, ...]:
        """Those that are wanted more than the current one."""
        return self._addresses[: self._place]

    def failed(self) -> bool:
        """Goes on with the next; whether each was tried since the round began, so that a wait is due."""
        self._place = (self._place + 1) % len(self._addresses)
        self._tried += 1
        if self._tried < len(self._addresses):
            return False
        self._tried = 0
        return True

    def ended(self, *, steady: bool) -> bool:
        """The connection in use ended. Whether a wait is due, as for `failed`; a steady one begins anew."""
        if not steady:
            return self.failed()
        self._place = self._tried = 0
        return len(self._addresses) == 1

    def answers(self, address: str) -> None:
        """This one answers again: it is tried next."""
        self._place, self._tried = self._addresses.index(address), 0
