"""What is seen from this machine: the disk, ports, certificates in files and of servers."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from gateway.model.address import to_listen
from gateway.model.diagnosis import Finding, problem
from gateway.model.diagnosis_database import DiskFacts, ServerFacts
from gateway.model.diagnosis_trust import Certificate

ANSWER_SECONDS = 5.0
MAX_OF_A_FILE = 5
"""A file with more certificates is a collection of authorities, of which some always end."""


def disk_of(server: ServerFacts) -> DiskFacts | None:
    """The disk below the data directory, where that is on this machine and may be looked at."""
    if server.data_directory is None or not server.is_local:
        return None
    try:
        found = os.statvfs(server.data_directory)
    except OSError:
        return None
    return DiskFacts(total=found.f_blocks * found.f_frsize, free=found.f_bavail * found.f_frsize)


def in_file(path: str, where: str) -> Sequence[Certificate]:
    """The certificates of a PEM file; one with a fault where there is none."""
    try:
        content = Path(path).read_bytes()
        if b"BEGIN CERTIFICATE" not in content and b"PRIVATE KEY" in content:
            return ()
        found = x509.load_pem_x509_certificates(content)
    except (OSError, ValueError) as error:
        return [Certificate(where=f"{where} ({path})", ends_at=None, fault=str(error))]
    if len(found) > MAX_OF_A_FILE:
        return ()
    return [
        Certificate(where=f"{where} ({path}, {each.subject.rfc4514_string()})", ends_at=_end(each))
        for each in found
    ]


async def of_server(url: str, where: str, default_port: int) -> Certificate | None:
    """The certificate that a server shows, believed or not; None where it cannot be reached."""
    address = urlsplit(url)
    if address.hostname is None:
        return None
    try:
        shown = await asyncio.to_thread(_shown, address.hostname, address.port or default_port)
    except OSError:  # ssl.SSLError is one
        return None
    return Certificate(where=f"{where} ({url})", ends_at=_end(x509.load_der_x509_certificate(shown)))


def _shown(host: str, port: int) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = (
        False,
        ssl.CERT_NONE,
    )  # its dates are asked for, nothing else
    with (
        socket.create_connection((host, port), ANSWER_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    if shown is None:
        raise OSError("the server shows no certificate")
    return shown


def _end(certificate: x509.Certificate) -> datetime:
    return certificate.not_valid_after_utc


async def port_fault(listen: str, setting: str) -> Finding | None:
    """Why a gateway could not listen there; None where it could, or where one does."""
    host, port = to_listen(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and await _is_gateway(host, port):
                return None
            return problem(
                f"the port cannot be listened on: {error.strerror or error}",
                where=f"{setting} {listen}",
                advice=(
                    "end the program that holds it (ss -ltnp), or choose another port; below 1024 needs"
                    " CAP_NET_BIND_SERVICE"
                ),
            )
    return None


async def _is_gateway(host: str, port: int) -> bool:
    # what is configured, not bound
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(reachable, port)
            try:
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = await reader.read(65_536)
                while b"alive" not in answer and (more := await reader.read(65_536)):
                    answer += more
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return False
    return b'"alive":true' in answer
