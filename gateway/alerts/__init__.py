"""Alerts: judges the stored log by rules, raises what they find at the system once, and follows it to its
end.
"""
