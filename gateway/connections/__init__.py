"""Connections as the configuration declares them: brought to life, verified, and moved
along the state table.
"""
