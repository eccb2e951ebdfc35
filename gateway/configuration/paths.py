"""Files that the configuration names: a relative path is one beside the file that names it."""

from __future__ import annotations

from pathlib import Path

from gateway.configuration.document import LocatedDocument
from gateway.configuration.fault import KeyPath

BROKER_FILES = ("ca_file", "client_certificate", "client_key")


def anchor(document: LocatedDocument, folder: Path) -> None:
    """Makes them whole, in the broker's section and in the settings of connections. What came by an
    environment variable is named by no file: it stays as it is, relative to where the program was started.
    """
    broker = document.data.get("broker")
    if isinstance(broker, dict):
        _anchor(document, ("broker",), broker, [key for key in BROKER_FILES if key in broker], folder)
    for name in ("integrator", "oidc"):
        section = document.data.get(name)
        if isinstance(section, dict):
            _anchor(document, (name,), section, named_files(section), folder)
    listed = document.data.get("connections")
    for index, item in enumerate(listed if isinstance(listed, list) else []):
        settings = item.get("settings") if isinstance(item, dict) else None
        if isinstance(settings, dict):
            base = ("connections", index, "settings")
            _anchor(document, base, settings, named_files(settings), folder)


def named_files(settings: dict[str, object]) -> list[str]:
    """The keys of a connection's settings that name a file."""
    return [key for key, value in settings.items() if key.endswith("_file") and isinstance(value, str)]


def unreadable(file: str) -> str | None:
    """Why a file cannot be used, and what to do; None for one that can be read."""
    try:
        with Path(file).open("rb") as opened:
            opened.read(1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return f"{file} cannot be read ({reason}); name a file that the user that Fieldgate runs as can read"
    return None


def _anchor(
    document: LocatedDocument, base: KeyPath, section: dict[str, object], keys: list[str], folder: Path
) -> None:
    for key in keys:
        value = section[key]
        if isinstance(value, str) and value and document.place((*base, key)).file == document.file:
            section[key] = str(folder.absolute() / value)
