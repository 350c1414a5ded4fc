"""Where the service is: the address given, MGRD_URL and MGRD_TOKEN, or the record that `mgrd up` keeps on this machine.

Neighbours: `client` and `async_client` ask here, the supervisor writes the record (`home`). Invariants: reads only; an address that was
given wins over the environment, the environment over the record; a token of the record is sent only to the record's own address, and
only there the certificate that the record names is enough.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from orchestrator.errors import MgrdError
from orchestrator.service.home import Home, HomeError, ServiceRecord

URL, TOKEN = "MGRD_URL", "MGRD_TOKEN"
AUTHORITIES = "MGRD_CA_FILE"  # PEM; for a service whose certificate no authority of this machine has signed
START = f"start one with `mgrd up`, or set {URL}"


class NoServiceKnown(MgrdError):
    """Nothing says where the service is, or what says so can't be used."""


@dataclass(frozen=True, slots=True)
class Address:
    """url: without a slash at its end; token: "" for none; told_by: who named it, for people; certificate: the only one to trust, of
    this machine's own service; authorities: further ones to trust. Both are PEM files, "" for none."""

    url: str
    token: str = field(default="", repr=False)
    told_by: str = ""
    certificate: str = ""
    authorities: str = ""


def find_service(url: str = "", token: str = "") -> Address:
    """The address to talk to. Raises NoServiceKnown."""
    token = token or os.environ.get(TOKEN, "")
    told_by = "the given address"
    if not url:
        url, told_by = os.environ.get(URL, ""), URL
    home = Home.default()
    if url:
        own = _record_for(url, home)
        return _address(url, token or own.token, told_by, own)
    try:
        record = home.record()
    except HomeError as error:
        raise NoServiceKnown(f"{error}; or set {URL} and {TOKEN}") from error
    if not record.url and not record.alive:
        raise NoServiceKnown(f"no service runs here: {START} (looked for {home.record_file})")
    if not record.url:
        raise NoServiceKnown("the service is starting and has no address yet: wait for `mgrd up`")
    if not record.alive:
        reason = f" ({record.error})" if record.error else ""
        raise NoServiceKnown(
            f"the service of {home.root} is stopped{reason}: start it again with `mgrd up`, or set {URL}"
        )
    return _address(record.url, token or record.token, str(home.record_file), record)


def _address(url: str, token: str, told_by: str, own: ServiceRecord) -> Address:
    authorities = os.environ.get(AUTHORITIES, "")
    return Address(_checked(url, told_by), token, told_by, own.certificate, authorities)


def _record_for(url: str, home: Home) -> ServiceRecord:
    """The record where it names this very address: one who reads it may use it."""
    try:
        record = home.record()
    except HomeError:
        record = ServiceRecord()  # another's service on this machine says nothing about the address that was given
    return record if record.url and record.url.rstrip("/") == url.rstrip("/") else ServiceRecord()


def _checked(url: str, told_by: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise NoServiceKnown(f"{told_by}: {url!r} is no address; write it as http://127.0.0.1:8420")
    return url.rstrip("/")
