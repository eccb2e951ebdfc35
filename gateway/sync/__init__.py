"""From stored telemetry to delivered readings: schedule, scan, deliver, initial sync. Knows connectors only
by their contract.
"""
