"""TLS of a customer's own: an authority that only they have, a client certificate that is the credential."""

from __future__ import annotations

import os
import ssl
import tempfile
from functools import cache
from pathlib import Path
from weakref import WeakValueDictionary

from gateway.model.errors import BadConfiguration

_SHARED: WeakValueDictionary[tuple[object, ...], ssl.SSLContext] = WeakValueDictionary()


def shared_context(*, ca_file: Path | None = None, ca_pem: str | None = None) -> ssl.SSLContext:
    """The one context of all who verify by the same authorities, while any of them uses it: reading them
    takes some 18 ms and a megabyte. Nobody may change it, so it has no client certificate. Raises
    BadConfiguration.
    """
    if ca_file is None and ca_pem is None:
        return _of_the_machine()
    key = (ca_pem, *_version_of(ca_file))
    context = _SHARED.get(key)
    if context is None:
        context = _SHARED[key] = tls_context(ca_file=ca_file, ca_pem=ca_pem)
    return context


@cache
def _of_the_machine() -> ssl.SSLContext:
    return tls_context()


def _version_of(ca_file: Path | None) -> tuple[object, ...]:
    """A file that was replaced is read anew."""
    if ca_file is None:
        return ()
    try:
        found = ca_file.stat()
    except (OSError, ValueError):
        return (ca_file,)  # whoever reads it says what is wrong
    return (ca_file, found.st_ino, found.st_size, found.st_mtime_ns)


def authority(ca_file: Path, context: ssl.SSLContext) -> None:
    """Verifies by this file. Raises BadConfiguration."""
    try:
        context.load_verify_locations(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise BadConfiguration(f"settings.ca_file {str(ca_file)[:200]!r} cannot be used: {error}") from error


def tls_context(
    *,
    ca_file: Path | None = None,
    ca_pem: str | None = None,
    certificate: str | None = None,
    private_key: str | None = None,
) -> ssl.SSLContext:
    """A context that verifies the server, by `ca_file` and `ca_pem` or the system's authorities. Raises
    BadConfiguration.

    `certificate` (with its chain) and `private_key` are PEM texts. The ssl module reads keys from files only:
    they lie in files of ours, readable by nobody else, for as long as that takes.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file, cadata=ca_pem)
    except (OSError, ValueError) as error:  # a path may be no path, and a file no text
        which = "settings.ca_pem" if ca_file is None else f"settings.ca_file {str(ca_file)[:200]!r}"
        raise BadConfiguration(f"{which} cannot be used: {error}") from error
    if certificate is None or private_key is None:
        return context
    with tempfile.TemporaryDirectory(prefix="fieldgate-") as folder:
        certificate_path, key_path = Path(folder, "certificate"), Path(folder, "key")
        for path, text in ((certificate_path, certificate), (key_path, private_key)):
            with os.fdopen(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600),
                "w",
                encoding="ascii",
                errors="replace",
            ) as file:
                file.write(text)
        try:
            context.load_cert_chain(
                certificate_path, key_path, password=""
            )  # a password that is asked for is a fault, not a prompt
        except (OSError, ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            raise BadConfiguration(
                "credentials.certificate and credentials.private_key do not make a client certificate:"
                f" {reason}"
            ) from None
    return context
