"""TLS to the broker, the same for every client of ours."""

from __future__ import annotations

import ssl

from gateway.model.errors import ConfigError
from gateway.settings import BrokerSettings


def tls_context(broker: BrokerSettings) -> ssl.SSLContext | None:
    """For `mqtts://`, by the first of a list; None for `mqtt://`. Verifies the broker by `ca_file` or the
    system's authorities, and shows the client certificate where there is one. Raises ConfigError for files
    that cannot be used.
    """
    if not broker.urls[0].startswith("mqtts://"):
        return None
    try:
        context = ssl.create_default_context(cafile=broker.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if broker.client_certificate is not None:
            context.load_cert_chain(broker.client_certificate, broker.client_key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"broker: the TLS files cannot be used ({error}); check ca_file, client_certificate and"
            " client_key"
        ) from error
    return context
