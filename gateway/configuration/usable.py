"""What a start would refuse although its shape is right: files that cannot be used, keys that are none."""

from __future__ import annotations

import base64
import binascii
import ssl

from gateway.configuration.document import LocatedDocument
from gateway.configuration.fault import ConfigurationFault, KeyPath
from gateway.configuration.paths import unreadable
from gateway.login_settings import check_provider_url
from gateway.model.dsn import FILES, parameters
from gateway.settings import LOGO_ENDINGS, BrokerSettings, IntegratorSettings, Settings

KEY_BYTES = 32
MIN_DIFFERENT = 12
"""Different bytes in a key. 32 random ones have fewer than 20 hardly ever; a word repeated has."""


def faults_of(settings: Settings, document: LocatedDocument) -> list[ConfigurationFault]:
    """Each with the line that names the file or the key."""
    found = [*_tls(settings.broker), *_database(settings), *_logo(settings.integrator), *_login(settings)]
    newest = settings.security.encryption_keys[0].get_secret_value()
    if newest and (problem := key_problem(newest)) is not None:
        found.append((("security", "encryption_keys", 0), problem))
    if settings.telemetry.memory_low_bytes >= settings.telemetry.memory_high_bytes:
        found.append((("telemetry", "memory_low_bytes"), "must be less than memory_high_bytes"))
    buffer, retention = settings.telemetry.buffer, settings.telemetry.retention
    if buffer is not None and buffer < retention:
        found.append((("telemetry", "buffer"), "must not be shorter than retention"))
    return [
        ConfigurationFault(place=document.place(path), path=path, message=message) for path, message in found
    ]


def key_problem(key: str) -> str | None:
    """Why a text is no key that could seal anything, or None. Only the newest is asked: an older one must
    open what it sealed, whatever it is, until nothing is left of it.
    """
    text = key.strip().rstrip("=").replace("-", "+").replace("_", "/")
    try:
        made = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        made = b""
    if len(made) < KEY_BYTES:
        problem = f"is no key: at least {KEY_BYTES} random bytes in base64 are needed"
    elif len(set(made)) < MIN_DIFFERENT:
        problem = "is no key: its bytes are not random"
    else:
        return None
    advice = (
        "make one with `fieldgate keys generate` and put it first; an older key stays behind it until"
        " `fieldgate keys` counts no records of it"
    )
    return f"{problem}; {advice}"


def _tls(broker: BrokerSettings) -> list[tuple[KeyPath, str]]:
    named = {key: getattr(broker, key) for key in ("ca_file", "client_certificate", "client_key")}
    faults: list[tuple[KeyPath, str]] = [
        (("broker", key), problem)
        for key, file in named.items()
        if file is not None and (problem := unreadable(file)) is not None
    ]
    if broker.client_key is not None and broker.client_certificate is None:
        faults.append((("broker", "client_key"), "is the key of no certificate; give client_certificate too"))
    if faults:
        return faults
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if broker.ca_file is not None:
        try:
            context.load_verify_locations(broker.ca_file)
        except (OSError, ValueError) as error:
            faults.append((("broker", "ca_file"), _no_pem(error)))
    if broker.client_certificate is not None:
        try:
            # a key with a passphrase must not ask for it on the terminal
            context.load_cert_chain(broker.client_certificate, broker.client_key, password="")
        except (OSError, ValueError) as error:
            faults.append((("broker", "client_certificate"), _no_pem(error)))
    return faults


def _logo(integrator: IntegratorSettings) -> list[tuple[KeyPath, str]]:
    file = integrator.logo_file
    if file is None:
        return []
    problem = unreadable(file)
    if problem is None and not file.lower().endswith(LOGO_ENDINGS):
        problem = f"is no picture that browsers show; give one of {', '.join(LOGO_ENDINGS)}"
    return [] if problem is None else [(("integrator", "logo_file"), problem)]


def _login(settings: Settings) -> list[tuple[KeyPath, str]]:
    """Of the identity provider: what would only be met by the first who logs in."""
    oidc, public_url = settings.oidc, settings.http.public_url
    if oidc.issuer is None:
        return []
    found: list[tuple[KeyPath, str]] = []
    if not settings.http.authentication:
        found.append((("oidc", "issuer"), "nobody logs in while http.authentication is off; take one away"))
    try:
        check_provider_url(public_url)
    except ValueError:
        problem = "must be https: the identity provider (`oidc`) sends people back there"
        found.append((("http", "public_url"), problem))
    if oidc.ca_file is not None:
        unusable = unreadable(oidc.ca_file)
        if unusable is None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(oidc.ca_file)
            except (OSError, ValueError) as error:
                unusable = _no_pem(error)
        if unusable is not None:
            found.append((("oidc", "ca_file"), unusable))
    return found


def _no_pem(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return f"cannot be used ({reason}); a PEM file is needed, and a key that fits, without a passphrase"


def _database(settings: Settings) -> list[tuple[KeyPath, str]]:
    given = parameters(settings.database.dsn.get_secret_value())
    return [
        (("database", "dsn"), f"{name}: {problem}")
        for name in FILES
        if name in given and (problem := unreadable(given[name])) is not None
    ]
