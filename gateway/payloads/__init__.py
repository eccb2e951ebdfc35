"""Payloads: where in a message things are, and what of it is taken. A source's rules, compiled; the formats;
the presets. No broker, no store, no clock.
"""
