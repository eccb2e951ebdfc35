"""A client certificate as the credential, an authority of the customer's own: real mutual TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from benchmarks.servers import PATIENCE
from gateway.model.errors import AuthRefused, BadConfiguration, Unavailable
from gateway.model.outcome import Accepted
from gateway.model.reading import make_batch
from tests.contract.harness import CONNECTION, reading, recent
from tests.contract.pki import Authority, make_authority
from tests.contract.sap_harness import S4hanaHarness


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[tuple[S4hanaHarness, Authority, Path]]:
    """A server that wants a certificate of its authority."""
    authority = make_authority("Acme CA")
    certificate, key = authority.issue("localhost")
    files = {name: tmp_path / name for name in ("ca", "certificate", "key")}
    for name, text in (("ca", authority.pem), ("certificate", certificate), ("key", key)):
        files[name].write_text(text)
    started = S4hanaHarness()
    options = {
        "ssl_certfile": str(files["certificate"]),
        "ssl_keyfile": str(files["key"]),
        "ssl_ca_certs": str(files["ca"]),
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
    }
    async with started.running("", certificates=True, **options):
        yield started, authority, files["ca"]


async def test_a_client_certificate_is_the_whole_credential(
    plant: tuple[S4hanaHarness, Authority, Path],
) -> None:
    harness, authority, ca = plant
    certificate, key = authority.issue("gateway")
    connector = harness.connector(
        credentials={"certificate": certificate, "private_key": key}, ca_file=str(ca)
    )
    (outcome,) = await connector.push(make_batch(CONNECTION, [reading("1000", recent(), 1.0)]))
    assert isinstance(outcome, Accepted)
    await connector.close()


@pytest.fixture
def strict(plant: tuple[S4hanaHarness, Authority, Path], tmp_path: Path) -> Iterator[str]:
    """A server by the ssl module itself, which says why it ends a handshake; asyncio's servers do not."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=plant[2])
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    context.verify_mode = ssl.CERT_REQUIRED

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with (
                context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as wrapped,
                contextlib.suppress(OSError),
            ):
                with contextlib.suppress(ssl.SSLError):
                    wrapped.do_handshake()
                plain = socket.socket(fileno=wrapped.detach())
                plain.shutdown(socket.SHUT_WR)
                while plain.recv(65536):  # or the reset would overtake the alert
                    pass
                plain.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"https://localhost:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5 * PATIENCE)


async def test_a_certificate_of_another_authority_or_none_is_a_refused_logon(
    plant: tuple[S4hanaHarness, Authority, Path], strict: str
) -> None:
    harness, _, ca = plant
    certificate, key = make_authority("Other CA").issue("gateway")
    for credentials in (
        {"certificate": certificate, "private_key": key},
        {"username": "MQTTGW", "password": "Welcome1!"},
    ):
        connector = harness.connector(url=strict, credentials=credentials, ca_file=str(ca))
        with pytest.raises(AuthRefused, match="does not take our client certificate"):
            await connector.probe()
        await connector.close()


async def test_an_unknown_authority_of_the_server_is_not_talked_to(
    plant: tuple[S4hanaHarness, Authority, Path],
) -> None:
    harness, _, _ = plant
    connector = harness.connector()
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await connector.probe()
    assert harness.front.log == []
    await connector.close()


async def test_what_is_no_certificate_is_a_configuration_fault_and_is_not_repeated(
    plant: tuple[S4hanaHarness, Authority, Path],
) -> None:
    harness, authority, ca = plant
    certificate, _ = authority.issue("gateway")
    for credentials in (
        {"certificate": "not-a-pem", "private_key": "secret-key"},
        {"certificate": certificate, "private_key": authority.issue("other")[1]},
    ):
        with pytest.raises(BadConfiguration, match=r"client certificate|expected PEM") as caught:
            harness.connector(credentials=credentials, ca_file=str(ca))
        assert "secret-key" not in str(caught.value)
    with pytest.raises(BadConfiguration, match="ca_file"):
        harness.connector(ca_file="/does/not/exist")
