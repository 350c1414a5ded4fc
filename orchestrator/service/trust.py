"""Which certificates a client believes: those of the machine's authorities, those of a file, or one alone.

Neighbours: clients, `doctor` and the supervisor's own question take their TLS from here. Invariant: nothing is ever sent to a server whose
certificate was not checked.
"""

from __future__ import annotations

import ssl

import httpx

from orchestrator.errors import MgrdError


def only(certificate: str) -> ssl.SSLContext:
    """For this machine's own service, which is asked by an address that its certificate need not name: trusted is the very certificate
    it serves. certificate: PEM file. Raises MgrdError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    _load(context, certificate)
    return context


def also(authorities: str) -> ssl.SSLContext:
    """The usual ones and those of a PEM file. Raises MgrdError."""
    context = httpx.create_ssl_context()
    _load(context, authorities)
    return context


def _load(context: ssl.SSLContext, file: str) -> None:
    try:
        context.load_verify_locations(cafile=file)
    except OSError as error:  # also what ssl makes of a file that is no PEM
        raise MgrdError(f"{file} holds no certificate that can be read: {error}") from error
