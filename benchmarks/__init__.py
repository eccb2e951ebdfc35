"""Measurements on real servers: ingest beside other consumers, and sync. `fieldgate bench` runs them."""
