"""Routes of user code: a zip under its SHA-256, checked before it is kept.

Neighbours: `zip_rules` looks inside, the launcher makes the zip a job's working directory. Invariants: what is kept under a hash has that
hash; a zip with a path that leads out of its folder, a link, or more than the limits is never kept; half an upload leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from orchestrator.service.access import Reader, Submitter
from orchestrator.service.api.bodies import Uploaded
from orchestrator.service.api.context import Here, Sha256, answer
from orchestrator.service.api.problems import errors
from orchestrator.service.api.zip_rules import BadZip, check_zip
from orchestrator.service.refusals import Refused

router = APIRouter(prefix="/v1/code", tags=["code"])
ZIP = {
    "requestBody": {
        "required": True,
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    }
}
SILENCE_S = 30.0  # an upload that sends nothing for so long is given up
FLUSH_BYTES = 1 << 20


@router.put(
    "/{sha256}",
    status_code=201,
    response_model=Uploaded,
    responses={200: {"model": Uploaded, "description": "It was here already."}, **errors()},
    openapi_extra=ZIP,
)
async def upload(sha256: Sha256, request: Request, here: Here, user: Submitter) -> Response:
    """Keeps a zip; its SHA-256 must be the one of the path. `submit` names it as `code`."""
    target = here.home.code / f"{sha256}.zip"
    limit = int(here.settings.max_code_mb * (1 << 20))
    handle, name = await run_in_threadpool(_temporary, here.home.code)
    try:
        with os.fdopen(handle, "wb") as file:
            found = await _receive(request, file, limit)
        if found != sha256:
            raise Refused(422, f"the body's SHA-256 is {found}", field="sha256", hint="was it changed on its way?")
        try:
            files = await run_in_threadpool(check_zip, Path(name), limit)
        except BadZip as error:
            raise Refused(422, str(error), field="body", hint="zip the folder again, with plain files only") from error
        size, created = os.path.getsize(name), not target.exists()
        await run_in_threadpool(_name, Path(name), target)
    except Refused as error:
        await run_in_threadpool(here.access.note, request, user, "code", sha256, f"refused: {error}")
        raise
    finally:
        Path(name).unlink(missing_ok=True)
    await run_in_threadpool(here.access.note, request, user, "code", sha256, "done")
    return answer(Uploaded(sha256, size, files, created), 201 if created else 200)


@router.head("/{sha256}", response_class=Response, responses={200: {"description": "It is here."}, **errors(404)})
def known(sha256: Sha256, here: Here, _: Reader) -> Response:
    """Whether this code was uploaded."""
    if not (here.home.code / f"{sha256}.zip").is_file():
        raise Refused(404, f"no code {sha256} was uploaded", field="sha256", hint="PUT it")
    return Response()


async def _receive(request: Request, file: object, limit: int) -> str:
    """Writes the body; returns its SHA-256."""
    digest, size, waiting = hashlib.sha256(), 0, bytearray()
    chunks = request.stream().__aiter__()
    while True:
        try:
            chunk = await asyncio.wait_for(anext(chunks, None), SILENCE_S)
        except TimeoutError:
            raise Refused(422, f"the upload was silent for {SILENCE_S:.0f} s", field="body") from None
        if chunk is None:
            break
        size += len(chunk)
        if size > limit:
            raise Refused(413, f"code has at most {limit >> 20} MB", field="body", hint="leave data out of it")
        digest.update(chunk)
        waiting += chunk
        if len(waiting) >= FLUSH_BYTES:
            await run_in_threadpool(file.write, bytes(waiting))  # type: ignore[attr-defined]
            waiting.clear()
    await run_in_threadpool(file.write, bytes(waiting))  # type: ignore[attr-defined]
    return digest.hexdigest()


def _temporary(folder: Path) -> tuple[int, str]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return tempfile.mkstemp(prefix=".upload-", dir=folder)


def _name(path: Path, target: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.replace(target)
