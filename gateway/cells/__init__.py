"""Gateways as cells: a customer moves from one to another, and what several of them say is read together."""
