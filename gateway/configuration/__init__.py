"""Reads the configuration: files with positions, environment overrides, secrets, meter tables; every fault at
once.
"""

from gateway.configuration.fault import Fault, Faults
from gateway.configuration.load import DeclaredConnection, Loaded, SystemModels, check, load

__all__ = ["DeclaredConnection", "Fault", "Faults", "Loaded", "SystemModels", "check", "load"]
