"""Devices, memory, disks, limits and ports of this machine.

Neighbours: `command` gathers, tests judge made-up facts. Invariant: `nvidia-smi` and CUDA are asked in processes of their own, with a
limit: a driver that hangs must not hang the doctor.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from actor import ENGINE_VERSIONS, Facts, resolve_kernels
from orchestrator.doctor.findings import Finding, fail, ok, warn

GIB = 1 << 30
SMI_LIMIT_S, CUDA_LIMIT_S = 15.0, 90.0
SMI = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits")
SHARED = ("nfs", "nfs4", "ceph", "lustre", "beegfs", "gpfs", "cifs", "smb3", "9p", "virtiofs")
FULL_DISK_GIB = 1.0  # below this a checkpoint of the smallest model may not fit, and Redis stops writing
FEW_FILES, ENOUGH_FILES = 1024, 4096  # descriptors: Ray wants many, Redis one a client


@dataclass(frozen=True, slots=True)
class Devices:
    """smi: rows `name, driver, MiB` of nvidia-smi, None when there is none; complaint: why it failed; cuda: devices that torch sees, None:
    it was not asked; cuda_complaint: why it sees none."""

    smi: tuple[str, ...] | None
    complaint: str = ""
    cuda: int | None = None
    cuda_complaint: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    """A folder that something writes to, and what is free below it. what: for people; problem: why it can't be written."""

    what: str
    path: str
    free_gib: float
    problem: str = ""


def devices(found: Devices, torch_version: str) -> Finding:
    if found.smi is None:
        return ok("GPUs", "none; runs use actor.device=cpu")
    if found.complaint or not found.smi:
        return fail(
            "GPUs",
            found.complaint or "nvidia-smi lists none",
            "see that the driver is loaded, and reboot after an update of it",
        )
    names = "; ".join(" ".join(part.strip() for part in row.split(",")[:1]) for row in found.smi)
    _, driver, memory = (part.strip() for part in found.smi[0].split(","))
    shown = f"{len(found.smi)}: {names} ({float(memory) / 1024:.0f} GiB each), driver {driver}"
    if "+cpu" in torch_version:
        return warn(
            "GPUs",
            f"{shown}, but torch {torch_version} can't use them",
            "pip install -U 'mgrd[gpu]' in an environment of its own",
        )
    if found.cuda is not None and found.cuda < len(found.smi):
        why = f": {found.cuda_complaint}" if found.cuda_complaint else ""
        return fail(
            "GPUs",
            f"{shown}; torch {torch_version} sees {found.cuda}{why}",
            "match torch's CUDA with the driver; look at CUDA_VISIBLE_DEVICES",
        )
    return ok("GPUs", shown)


def kernels(found: Devices, engine: str) -> Finding:
    """What a trainer's layers would run on with actor.kernels=auto. engine: version of Transformer Engine, empty without one."""
    facts = Facts(cuda=bool(found.cuda), engine=engine)
    chosen = resolve_kernels("auto", "cuda" if found.smi else "cpu", facts)
    shown = f"{chosen.name} ({chosen.reason})"
    if not found.smi or chosen.engine:
        return ok("trainer kernels", shown)
    return warn(
        "trainer kernels",
        shown,
        f'layers run on plain torch; pip install "transformer-engine[pytorch]{ENGINE_VERSIONS}" brings fused ones (docs/GPU.md)',
    )


def instructions(machine: str, flags: Collection[str]) -> Finding:
    """machine: x86_64 | aarch64 …; flags: of /proc/cpuinfo. vLLM's CPU build needs AVX2, and is several times faster with AVX-512."""
    if machine not in ("x86_64", "amd64"):
        return ok("processor", machine)
    best = next((name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in flags), "")
    if not best:
        return fail("processor", "no AVX2", "vLLM does not run on this processor; use another machine, or GPUs")
    if best == "avx2":
        return warn(
            "processor", "AVX2 without AVX-512", "engines on this processor are slow; prefer one with AVX-512 or GPUs"
        )
    return ok("processor", best)


def memory(free_gib: float, total_gib: float, needed_gib: float) -> Finding:
    shown = f"{free_gib:.1f} of {total_gib:.1f} GiB free"
    if free_gib < needed_gib:
        return warn(
            "memory",
            f"{shown}; a run of the smallest model wants {needed_gib:.1f}",
            "end what uses it, or use a larger machine",
        )
    return ok("memory", shown)


def shared_memory(free_gib: float | None, needed_gib: float) -> Finding:
    """/dev/shm, where Ray keeps objects; a container's default is 64 MiB."""
    if free_gib is None:
        return ok("shared memory", "no /dev/shm on this system")
    if free_gib < needed_gib:
        return warn(
            "shared memory",
            f"{free_gib:.2f} GiB in /dev/shm, the object store takes {needed_gib:.2f}",
            "give the container more (docker run --shm-size=2g, an emptyDir of medium Memory), or lower object_store_mb",
        )
    return ok("shared memory", f"{free_gib:.1f} GiB in /dev/shm")


def disk(found: Disk, enough_gib: float) -> Finding:
    name = f"disk: {found.what}"
    if found.problem:
        return fail(
            name, f"{found.path}: {found.problem}", "choose a folder you may write to (MGRD_STATE, MGRD_CACHE, run.dir)"
        )
    shown = f"{found.free_gib:.1f} GiB free in {found.path}"
    if found.free_gib < FULL_DISK_GIB:
        return fail(name, shown, "free some space: checkpoints will not fit, and Redis will refuse to write")
    if found.free_gib < enough_gib:
        return warn(name, shown, f"less than {enough_gib:g} GiB (min_free_disk_gib) is soon full: free some space")
    return ok(name, shown)


def descriptors(soft: int) -> Finding:
    if soft < FEW_FILES:
        return fail("open files", f"at most {soft}", "ulimit -n 65536 before mgrd up; Ray and Redis fail with few")
    if soft < ENOUGH_FILES:
        return warn(
            "open files", f"at most {soft}", "ulimit -n 65536 before mgrd up, for more than a few experiments at once"
        )
    return ok("open files", f"at most {soft}")


def port(number: int, free: bool, ours: bool) -> Finding:
    if ours:
        return ok("port", f"{number}: this service's own")
    if not number:
        return ok("port", "any free one")
    if free:
        return ok("port", f"{number} is free")
    return fail(
        "port",
        f"{number} is in use by another process",
        "end it, or start with another: mgrd up --port 0 takes any free one",
    )


def gather_devices(torch_version: str) -> Devices:
    if shutil.which(SMI[0]) is None:
        return Devices(None)
    try:
        asked = subprocess.run(SMI, capture_output=True, text=True, timeout=SMI_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return Devices((), f"nvidia-smi does not answer within {SMI_LIMIT_S:.0f} s")
    if asked.returncode:
        return Devices(
            (),
            (asked.stdout + asked.stderr).strip().splitlines()[0]
            if asked.stdout + asked.stderr
            else "nvidia-smi failed",
        )
    rows = tuple(line for line in asked.stdout.splitlines() if line.count(",") == 2)
    if not rows or "+cpu" in torch_version:
        return Devices(rows)
    count, complaint = _cuda_devices()
    return Devices(rows, "", count, complaint)


def _cuda_devices() -> tuple[int, str]:
    program = "import torch; print(torch.cuda.device_count())"
    try:
        asked = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=CUDA_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return 0, f"no answer within {CUDA_LIMIT_S:.0f} s"
    if asked.returncode or not asked.stdout.strip().isdigit():
        return 0, asked.stderr.strip().splitlines()[-1] if asked.stderr.strip() else "torch failed"
    return int(asked.stdout), next((line.strip() for line in asked.stderr.splitlines() if "CUDA" in line), "")


def gather_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    if not cpuinfo.exists():
        return frozenset()
    rows = (line for line in cpuinfo.read_text(errors="replace").splitlines() if line.startswith("flags"))
    return frozenset(next(rows, "").split())


def gather_memory(psutil_free: int, psutil_total: int, cgroup: Path = Path("/sys/fs/cgroup")) -> tuple[float, float]:
    """(free, total) in GiB: of the machine, or of the container where that has less."""
    limit, used = _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    if limit is None or used is None or limit > psutil_total:
        return psutil_free / GIB, psutil_total / GIB
    return min(psutil_free, max(0, limit - used)) / GIB, limit / GIB


def gather_disk(what: str, path: Path) -> Disk:
    """Tries to write where the folder exists, else where it would be made."""
    there = path
    while not there.exists():
        there = there.parent
    try:
        free = shutil.disk_usage(there).free / GIB
        if not there.is_dir():
            return Disk(what, str(path), free, f"{there} is a file")
        if not os.access(there, os.W_OK | os.X_OK):
            return Disk(what, str(path), free, "not writable")
        if there == path:
            probe = path / f".mgrd-doctor-{secrets.token_hex(4)}"
            probe.write_bytes(b"probe")
            probe.rename(probe.with_suffix(".moved"))
            probe.with_suffix(".moved").unlink()
    except OSError as error:
        return Disk(what, str(path), 0.0, error.strerror or str(error))
    return Disk(what, str(path), free)


def file_system(path: Path, mounts: Sequence[tuple[str, str]]) -> str:
    """Kind of the file system that `path` lies on. mounts: (mount point, kind)."""
    inside = [(point, kind) for point, kind in mounts if path.is_relative_to(point)]
    return max(inside, key=lambda row: len(row[0]))[1] if inside else "unknown"


def shared_folder(kind: str, path: str, cluster: bool) -> Finding:
    """cluster: Ray runs elsewhere, so that its machines must see the same folder."""
    if not cluster:
        return ok("state folder", f"{path} ({kind})")
    if kind in SHARED or kind.startswith("fuse"):
        return ok("state folder", f"{path} ({kind}), shared")
    return warn(
        "state folder",
        f"{path} lies on {kind}, and Ray runs elsewhere",
        "jobs write runs there: set MGRD_STATE to a folder that every machine of the cluster has at the same path",
    )


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
