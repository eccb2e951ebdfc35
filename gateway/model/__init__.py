"""Pure domain: no I/O, no clock, no asyncio, no randomness. Everything else may import it."""
