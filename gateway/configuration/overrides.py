"""Environment overrides: `FIELDGATE_SECTION__KEY` sets a key of the main file; one that names no key is a
fault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml
from pydantic import BaseModel

from gateway.configuration.document import LocatedDocument
from gateway.configuration.fault import ConfigurationFault, FilePlace, KeyPath, did_you_mean
from gateway.configuration.shape import is_collection, keys_of, type_at

PREFIX = "FIELDGATE_"

_OURS = re.compile(r"FIELDGATE_(CONFIG|DATA_DIR|NO_COLOR|(TEST|BENCH|SOAK|DEMO)(_.*)?)")
_KUBERNETES = re.compile(r"FIELDGATE_((.*_)?SERVICE_(HOST|PORT)(_.*)?|(.*_)?PORT(_\d+_(TCP|UDP).*)?)")
"""Kubernetes gives every pod the addresses of the services beside it, in variables that begin with the
service's name.
"""


def apply(
    document: LocatedDocument, root: type[BaseModel], environ: Mapping[str, str]
) -> dict[str, ConfigurationFault]:
    """Sets what the environment overrides; the faults of the names that are no key, by name (some may be
    secrets that are asked for).
    """
    unknown: dict[str, ConfigurationFault] = {}
    for name, value in sorted(environ.items()):
        if (
            not name.startswith(PREFIX)
            or _OURS.fullmatch(name)
            or ("__" not in name and _KUBERNETES.fullmatch(name))
        ):
            continue
        place = FilePlace(file=f"environment variable {name}")
        path: KeyPath = tuple(name.removeprefix(PREFIX).lower().split("__"))
        annotation = type_at(root, path)
        if annotation is None:
            unknown[name] = ConfigurationFault(
                place=place, path=(), message=f"sets no key of the configuration{_nearest(root, path)}"
            )
            continue
        try:
            parsed = yaml.safe_load(value) if is_collection(annotation) else value
        except yaml.YAMLError:
            document.faults.append(
                ConfigurationFault(
                    place=place,
                    path=path,
                    message='is not YAML; write a list as ["a", "b"] and a mapping as {key: value}',
                )
            )
            continue
        document.put(path, parsed, place)
    return unknown


def _nearest(root: type[BaseModel], path: KeyPath) -> str:
    known = {PREFIX + name.upper() for name in keys_of(root)}
    for section in keys_of(root):
        known |= {f"{PREFIX}{section}__{key}".upper() for key in keys_of(type_at(root, (section,)))}
    word = PREFIX + "__".join(str(part) for part in path).upper()
    hint = did_you_mean(word, known)
    return hint if "did you mean" in hint else "; remove it, or name it FIELDGATE_SECTION__KEY"
