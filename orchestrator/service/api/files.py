"""Routes of what a run leaves behind: policy updates, sampled trajectories, recordings, logs.

Neighbours: `run_files` reads the run's directory. Invariants: a file is found by a name that the service itself lists, never by a path
from a request; a recording is handed out only if a sample names it and it lies where recordings may lie.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, PlainTextResponse, Response, StreamingResponse

from orchestrator.service.access import Reader
from orchestrator.service.allowed_paths import inside
from orchestrator.service.api import run_files
from orchestrator.service.api.bodies import Components, Samples, Updates
from orchestrator.service.api.context import Context, Here, Id, Sha256, answer
from orchestrator.service.api.problems import errors
from orchestrator.service.messages import Experiment, State
from orchestrator.service.refusals import Refused
from orchestrator.service.states import ACTIVE

router = APIRouter(prefix="/v1/experiments", tags=["files"])
AUDIO = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".m4a": "audio/mp4"}
GOING = ACTIVE | {State.QUEUED}  # more lines may come
MAX_TAIL = 100_000
DEFAULT_TAIL = 200
TEXT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Lines."}
}
SOUND: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in AUDIO.values()},
        "description": "The recording.",
    },
    206: {"description": "The part of it that was asked for by Range."},
    416: {"description": "No such part."},
}


@router.get("/{id}/updates", response_model=Updates, responses=errors(404))
def updates(
    id: Id,
    here: Here,
    _: Reader,
    after: Annotated[int, Query(ge=-1, le=1 << 53, description="Only those with a larger number.")] = -1,
) -> Response:
    """Every policy update so far, with all its numbers."""
    found = run_files.updates(Path(here.store.get(id).run_dir))
    return answer({"updates": [update for update in found if update.update > after]})


@router.get("/{id}/samples", response_model=Samples, responses=errors(404))
def samples(id: Id, here: Here, _: Reader) -> Response:
    """The last sampled trajectories, newest first."""
    here.store.get(id)
    return answer({"samples": here.store.samples(id)})


@router.get("/{id}/audio/{sha256}", response_class=Response, responses={**SOUND, **errors(404)})
def audio(id: Id, sha256: Sha256, here: Here, _: Reader) -> Response:
    """A recording that one of the samples names."""
    experiment = here.store.get(id)
    paths = [Path(path) for sample in here.store.samples(id) for sha, path in sample.clips if sha == sha256]
    if not paths:
        raise Refused(404, f"no sample of {id} names the recording {sha256}", field="sha256", hint="see its samples")
    path = paths[0]
    kind = AUDIO.get(path.suffix.lower())
    if kind is None or not inside(path, (*here.roots, Path(experiment.run_dir))):
        raise Refused(404, f"the recording {sha256} is no audio file in a folder that may be read", field="sha256")
    if not path.is_file():
        raise Refused(404, f"the recording {sha256} was deleted from {path.parent}", field="sha256")
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "private, max-age=86400, immutable"}
    return FileResponse(path, media_type=kind, headers=headers)


@router.get("/{id}/logs/components", response_model=Components, responses=errors(404))
def components(id: Id, here: Here, _: Reader) -> Response:
    """Parts of the run that have a log: driver, rollout/0, trainer/0, …"""
    return answer({"components": run_files.components(Path(here.store.get(id).run_dir))})


@router.get("/{id}/logs", response_class=Response, responses={**TEXT, **errors(404)})
async def logs(
    id: Id,
    here: Here,
    _: Reader,
    component: Annotated[str, Query(pattern=run_files.COMPONENT_PATTERN)] = "driver",
    tail: Annotated[
        int, Query(ge=0, le=MAX_TAIL, description="Last lines; with follow=true what comes before new ones.")
    ] = DEFAULT_TAIL,
    follow: Annotated[
        bool, Query(description="Keep the connection, send lines as they come, end with the experiment.")
    ] = False,
) -> Response:
    """Lines of one component's log, the oldest first; files that were turned over are read as well."""
    experiment = await run_in_threadpool(here.store.get, id)
    folder = Path(experiment.run_dir)
    listed = await run_in_threadpool(run_files.components, folder)
    if component not in listed and component != "driver" and not (follow and experiment.state in GOING):
        said = f"there are {', '.join(listed)}" if listed else "it has no logs yet"
        raise Refused(404, f"{id} has no component {component!r}", field="query.component", hint=said)
    log = run_files.LogFile(folder, component)
    lines = await run_in_threadpool(log.tail, tail)
    if not follow:
        return PlainTextResponse(lines, headers={"X-Content-Type-Options": "nosniff"})
    return StreamingResponse(_following(here, experiment, log, lines), media_type="text/plain; charset=utf-8")


async def _following(
    here: Context, experiment: Experiment, log: run_files.LogFile, before: bytes
) -> AsyncIterator[bytes]:
    """Until nothing runs any more and all is read."""
    yield before

    async def over() -> bool:
        now: Experiment = await run_in_threadpool(here.store.get, experiment.id)
        return now.state not in GOING

    async for part in log.follow(over):
        yield part
