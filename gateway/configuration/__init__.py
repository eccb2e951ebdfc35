"""Reads the configuration: files with positions, environment overrides, secrets, meter tables; every fault at
once.
"""

from gateway.configuration.fault import ConfigurationFault, Faults
from gateway.configuration.load import DeclaredConnection, Loaded, SystemModels, check, load
from gateway.configuration.secret import SECTIONS

__all__ = [
    "SECTIONS",
    "ConfigurationFault",
    "DeclaredConnection",
    "Faults",
    "Loaded",
    "SystemModels",
    "check",
    "load",
]
