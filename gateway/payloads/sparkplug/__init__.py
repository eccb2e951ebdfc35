"""Sparkplug B 3.0, as a host application reads it: payloads, births and what they define, sequences. No
broker, no store, no clock.
"""
