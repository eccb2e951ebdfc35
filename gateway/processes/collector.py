"""Python's collector of unreachable objects, in a process that serves for weeks."""

from __future__ import annotations

import gc


def spare_what_is_loaded() -> None:
    """Called when everything is imported and made. What is made for a batch or an answer is gone with it: a
    look at each 700 objects, and at all of them each time their number grew by a quarter, took a quarter of
    what a delivery costs, and 80 ms of one in a hundred long lists, in pauses of the loop. What is there by
    now is code, and stays: no look at all objects needs to go through it.
    """
    gc.set_threshold(50_000, 20, 50)
    gc.freeze()
