"""HTTPS with a certificate that no authority has signed: who may talk to it, and what the others are told."""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastapi import FastAPI
from redis_room import free_port

from orchestrator import Client, guardian
from orchestrator.service.client_errors import ServiceUnreachable
from orchestrator.service.home import Home, ServiceRecord
from orchestrator.service.members import api_answers
from orchestrator.service.trust import only

NAME = "localhost"


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """(certificate, key), signed by itself, for `NAME`."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(key.private_bytes(*form))
    return folder / f"{name}.pem", folder / f"{name}.key"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """(port, certificate) of a server that says `me` to everybody."""
    cert, key = certificate(tmp_path_factory.mktemp("tls"), "own")
    app, port = FastAPI(), free_port()
    app.get("/healthz")(lambda: {})
    app.get("/v1/me")(lambda: {"name": "ann", "scopes": ["read"]})
    settings = uvicorn.Config(app, port=port, log_level="critical", ssl_certfile=cert, ssl_keyfile=key)
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield port, cert
    server.should_exit = True
    thread.join(20)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("MGRD_STATE", str(tmp_path))
    for name in ("MGRD_URL", "MGRD_TOKEN", "MGRD_CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("orchestrator.service.transport.ATTEMPTS", 1)
    home = Home.default()
    home.make()
    return home


def test_own_machine_trusts_the_certificate_of_its_record_by_whatever_address(served, home: Home) -> None:
    port, cert = served
    row = guardian.look(os.getpid())
    assert row is not None
    url = f"https://127.0.0.1:{port}"  # not among the names of the certificate
    home.write_record(ServiceRecord(url=url, pid=os.getpid(), pid_start=row[1], certificate=str(cert)))
    with Client() as client:
        assert client.me().name == "ann"
    assert api_answers(url, str(cert))


def test_another_servers_certificate_is_not_taken_for_the_own_one(served, home: Home, tmp_path: Path) -> None:
    port, _ = served
    stranger, _ = certificate(tmp_path, "stranger")
    url = f"https://127.0.0.1:{port}"
    home.write_record(ServiceRecord(url=url, certificate=str(stranger)))
    with Client(url) as client, pytest.raises(ServiceUnreachable, match="not trusted"):
        client.me()
    assert not api_answers(url, str(stranger))
    assert only(str(stranger)).verify_mode.name == "CERT_REQUIRED"


def test_others_need_the_authority_and_a_name_of_the_certificate(served, monkeypatch: pytest.MonkeyPatch) -> None:
    port, cert = served
    with Client(f"https://{NAME}:{port}") as client, pytest.raises(ServiceUnreachable, match="not trusted") as refused:
        client.me()
    assert "MGRD_CA_FILE" in refused.value.hint
    monkeypatch.setenv("MGRD_CA_FILE", str(cert))
    with Client(f"https://{NAME}:{port}") as client:
        assert client.me().name == "ann"
    with Client(f"https://127.0.0.1:{port}") as client, pytest.raises(ServiceUnreachable, match="IP address mismatch"):
        client.me()
