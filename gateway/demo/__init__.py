"""The demonstration: a fleet, a CMMS and a live view. Nothing of the daemon imports it."""
