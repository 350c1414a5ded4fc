"""What a scoring process gives up before it imports a reward function: resources, privileges, files, system calls.

Neighbours: `sandbox_child` calls `enter` with what `sandbox_process` worked out (`isolation_calls` makes the filter, `chosen`
says which protections this machine has).
Invariants: nothing here needs privileges or can be undone by the process; only the standard library, so that a scoring process
starts quickly. Numbers are those of the kernel's headers (prctl.h, capability.h, landlock.h, seccomp.h).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct

from rewards.errors import RewardError

SETTING = "MGRD_REWARD_ISOLATION"
FULL = "full"
LIMITS = "limits"

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
CAPABILITIES = 64
CAPABILITY_VERSION = 0x20080522

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_ENTER = 444, 445, 446  # the same on every architecture
LANDLOCK_VERSION = 1
LANDLOCK_PATH_BENEATH = 1
LEAST_LANDLOCK = 3  # earlier ones don't see truncation
SCOPES_SINCE = 6
WRITE_FILE, TRUNCATE = 1 << 1, 1 << 14
WRITING = WRITE_FILE | TRUNCATE | sum(1 << right for right in range(4, 14))  # and removing, making, moving
SCOPES = 0b11  # signals to, and abstract sockets of, processes outside
WRITABLE = (os.devnull,)


def chosen(isolation: str) -> str:
    """`full` or `limits`, from a limit's field or the environment. Raises RewardError for another word."""
    word = isolation or os.environ.get(SETTING, "") or FULL
    if word not in (FULL, LIMITS):
        raise RewardError(f"{SETTING} (isolation) is {word!r}; it must be {FULL!r} or {LIMITS!r}")
    return word


def landlock_version() -> int:
    """Version of the kernel's file rules if it can be used here, else 0."""
    version = _libc().syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), LANDLOCK_VERSION)
    return version if version >= LEAST_LANDLOCK else 0


def die_with(parent: int) -> None:
    """The process ends when the thread that started it does. Raises ProcessLookupError if that is already so."""
    _checked(_libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "asking for the parent's end")
    if os.getppid() != parent:
        raise ProcessLookupError(f"the parent process {parent} is gone")


def limit_resources(memory_mb: int, open_files: int) -> None:
    """memory_mb: MiB of addresses; files in memory (memfd), which are none, can together be as large; no core files.

    Raises OSError, ValueError when the system refuses.
    """
    for kind, value in (
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_NOFILE, open_files),
        (resource.RLIMIT_FSIZE, (memory_mb << 20) // open_files),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (least, least))


def enter(filter_program: bytes, landlock: int) -> None:
    """Gives up privileges, writing to files (landlock: version of the rules, 0 for none), and the filtered system calls.

    Raises OSError naming the step that the kernel refused.
    """
    libc = _libc()
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "giving up new privileges")
    if landlock:
        _guard_files(libc, landlock)
    _drop_capabilities(libc)
    _filter_calls(libc, filter_program)


def _guard_files(libc: ctypes.CDLL, version: int) -> None:
    """No file is written, made, moved or removed; and the memory and environment of processes outside can't be read."""
    rules = struct.pack("<QQQ", WRITING, 0, SCOPES) if version >= SCOPES_SINCE else struct.pack("<Q", WRITING)
    ruleset = libc.syscall(LANDLOCK_CREATE, rules, ctypes.c_size_t(len(rules)), 0)
    _checked(ruleset, "making rules for files")
    for path in WRITABLE:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("<Qi", WRITE_FILE | TRUNCATE, beneath)
        _checked(libc.syscall(LANDLOCK_ADD, ruleset, LANDLOCK_PATH_BENEATH, rule, 0), f"allowing {path}")
        os.close(beneath)
    _checked(libc.syscall(LANDLOCK_ENTER, ruleset, 0), "entering the rules for files")
    os.close(ruleset)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """What root may do beyond others; a process without can't look into one that has them."""
    for capability in range(CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails where there is nothing to drop
    head = struct.pack("<Ii", CAPABILITY_VERSION, 0)
    _checked(libc.capset(head, bytes(24)), "dropping capabilities")


def _filter_calls(libc: ctypes.CDLL, program: bytes) -> None:
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: unsigned short, then an aligned pointer.
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    _checked(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0), "filtering system calls")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, step: str) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{step}: {os.strerror(error)}")
