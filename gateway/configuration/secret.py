"""Which keys hold secrets, and the only two ways to give one: `${env:NAME}` and `${file:PATH}`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from gateway.configuration.document import LocatedDocument
from gateway.configuration.fault import ConfigurationFault, KeyPath

_REFERENCE = re.compile(r"\$(\$?)\{([^{}]*)\}")
_SECRET_KEY = re.compile(
    r"(password|passphrase|secret|token|api_?key|private_?key|encryption_?keys?|credential)s?$", re.IGNORECASE
)
_PASSWORD_IN_URL = re.compile(r"://[^/@\s:]*:[^/@\s]+@|(?:^|[\s?&])password=\S")

SECTIONS = ("broker", "database", "security", "connections", "oidc", "tracing")
"""Where the secrets are: sections of the main file, and what is connected. A command needs those of some."""

_HEADERS = ("tracing", "headers")
"""Whatever they are called."""

_NO_SECRETS = ("type", "expires_at")


def resolve(
    document: LocatedDocument,
    environ: Mapping[str, str],
    folder: Path,
    *,
    needed: Collection[str] = SECTIONS,
) -> set[str]:
    """Replaces every reference in the document; the names of the variables it asked for. `$${` stands for a
    plain `${`.

    Relative files are beside the configuration file. One newline at the end of a file is not part of the
    secret. A secret that is not there is a fault, unless it belongs to a section that is not `needed`: then
    it is empty, and its place is in `document.absent`.
    """
    resolver = _Resolver(document, environ, folder, needed)
    document.data = {key: resolver.value(value, (key,)) for key, value in document.data.items()}
    return resolver.used


def written_in_clear(key: str, value: str) -> bool:
    """Whether a literal value gives a secret away: by its key's name, or as a URL or DSN with a password in
    it.
    """
    if _REFERENCE.search(value):
        return False
    return bool(_SECRET_KEY.search(key)) or bool(_PASSWORD_IN_URL.search(value))


class _Resolver:
    def __init__(
        self, document: LocatedDocument, environ: Mapping[str, str], folder: Path, needed: Collection[str]
    ) -> None:
        self.used: set[str] = set()
        self._document = document
        self._environ = environ
        self._folder = folder
        self._needed = needed

    def value(self, value: object, path: KeyPath) -> object:
        match value:
            case dict():
                return {key: self.value(below, (*path, str(key))) for key, below in value.items()}
            case list():
                return [self.value(below, (*path, index)) for index, below in enumerate(value)]
            case str():
                return self._text(value, path)
            case _:
                return value

    def _text(self, text: str, path: KeyPath) -> str:
        key = next((part for part in reversed(path) if isinstance(part, str)), "")
        if (
            not key.endswith("_file")
            and (written_in_clear(key, text) or (path[:2] == _HEADERS and not _REFERENCE.search(text)))
            and self._document.place(path).line is not None
        ):
            self._fault(path, "is a secret written in clear; give it as ${env:NAME} or ${file:PATH}")
        return _REFERENCE.sub(lambda found: self._reference(found, path), text)

    def _reference(self, found: re.Match[str], path: KeyPath) -> str:
        escaped, body = found.groups()
        if escaped:
            return found.group()[1:]
        kind, _, name = body.partition(":")
        match kind:
            case "env" if name:
                return self._variable(name, path)
            case "file" if name:
                return self._file(name, path)
            case _:
                self._fault(
                    path,
                    f"${{{body}}} is unknown; only ${{env:NAME}} and ${{file:PATH}} are replaced (write $${{"
                    " for a plain ${)",
                )
                return ""

    def _variable(self, name: str, path: KeyPath) -> str:
        self.used.add(name)
        value = self._environ.get(name)
        if not value:
            missing = "is not set" if value is None else "is empty"
            self._lacking(
                path,
                f"environment variable {name} {missing}; set it where Fieldgate is started, or use"
                " ${file:PATH}",
            )
            return ""
        return value

    def _file(self, name: str, path: KeyPath) -> str:
        file = self._folder / name
        try:
            text = file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
            self._lacking(
                path,
                f"secret file {file} cannot be read ({reason}); create it, readable by the user that"
                " Fieldgate runs as",
            )
            return ""
        if not text:
            self._lacking(path, f"secret file {file} is empty; write the secret into it")
        return text

    def _lacking(self, path: KeyPath, message: str) -> None:
        if _may_lack(path) and path[0] not in self._needed:
            self._document.absent.add(path)
        else:
            self._fault(path, message)

    def _fault(self, path: KeyPath, message: str) -> None:
        fault = ConfigurationFault(place=self._document.place(path), path=path, message=message)
        if fault not in self._document.faults:
            self._document.faults.append(fault)


def _may_lack(path: KeyPath) -> bool:
    """Whether the rest of the configuration can be read without this value. What a connection is called and
    whose it is decides what else is said of it.
    """
    if path[0] != "connections":
        return path[0] in SECTIONS
    return path[2:3] in (("credentials",), ("settings",)) and path[3:4] not in [(key,) for key in _NO_SECRETS]
