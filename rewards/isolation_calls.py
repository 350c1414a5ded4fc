"""The system calls a scoring process may make, as a program for the kernel's filter (seccomp).

Neighbours: `sandbox_process` has one made for every process it starts, `isolation` puts it in force inside that process.
Invariants: made where libseccomp is, in the service, so that the scoring process needs no library; whatever is not named here
is allowed, so that numpy, numba and their like work; a call of another architecture ends the process.
"""

from __future__ import annotations

import errno
import os
import socket
from functools import lru_cache
from types import ModuleType

from rewards.errors import RewardError
from rewards.isolation import LIMITS, PR_SET_PDEATHSIG, SETTING

CLONE_THREAD = 0x00010000  # linux/sched.h
PR_SET_DUMPABLE = 4  # linux/prctl.h
LAST_FAMILY = 45  # of sockets, linux/socket.h
INT = 0xFFFFFFFF  # the kernel reads no more of such an argument

# Names of system calls.
PROCESSES = "fork vfork execve execveat setsid setpgid"
OTHERS = (  # processes and their memory, keys, settings
    "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_open pidfd_getfd "
    "pidfd_send_signal rt_sigqueueinfo rt_tgsigqueueinfo tkill migrate_pages move_pages setpriority ioprio_set "
    "sched_setscheduler sched_setparam sched_setattr shmget shmat shmctl shmdt semget semctl semop semtimedop msgget "
    "msgctl msgsnd msgrcv mq_open mq_unlink keyctl add_key request_key"
)
KERNEL = (
    "mount umount umount2 pivot_root chroot setns unshare open_tree move_mount fsopen fsconfig fsmount fspick "
    "mount_setattr open_tree_attr swapon swapoff reboot sethostname setdomainname init_module finit_module delete_module "
    "kexec_load kexec_file_load quotactl quotactl_fd acct syslog settimeofday clock_settime clock_adjtime adjtimex iopl ioperm "
    "personality bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register name_to_handle_at "
    "open_by_handle_at fanotify_init fanotify_mark vhangup"
)
FILES = (
    "creat unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir link linkat symlink symlinkat mknod mknodat "
    "truncate truncate64 chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat chown32 fchown32 lchown32 utime "
    "utimes futimesat utimensat utimensat_time64 setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr "
    "fremovexattr removexattrat file_setattr"
)
RECENT = {  # numbers, the same on every architecture, of calls that older libraries have no name for
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434,
    "clone3": 435, "openat2": 437, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443,
    "process_mrelease": 448, "fchmodat2": 452, "setxattrat": 463, "removexattrat": 466, "open_tree_attr": 467,
    "file_setattr": 469,
}  # fmt: skip
SERVERS = "listen accept accept4"
CONNECTIONS = f"socket connect bind {SERVERS}"
NETWORKS = {socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}  # the last is how libc asks which of the two there are
WRITING = (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC)


@lru_cache(maxsize=1)
def _library() -> ModuleType:
    """Raises RewardError where libseccomp is missing."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise RewardError(
            f"reward functions can't be isolated here: {error}. Install libseccomp (package libseccomp2 or libseccomp), "
            f"or set {SETTING}={LIMITS} to run them with limits on time and memory alone"
        ) from error
    return pyseccomp


def filter_program(pid: int, *, network: bool, files_guarded: bool) -> bytes:
    """The filter of process `pid` as BPF instructions. network: whether it may open connections; files_guarded: whether
    something else keeps it from opening files for writing (a system call's filter can't tell /dev/null from others).

    Raises RewardError where libseccomp is missing or refuses a rule.
    """
    seccomp = _library()
    rules = seccomp.SyscallFilter(seccomp.ALLOW)

    def deny(call: str, *conditions: object, error: int = errno.EPERM) -> None:
        number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, call)
        if number < 0:
            number = RECENT.get(call, -1)
        if number >= 0:  # else this architecture does not have it
            rules.add_rule(seccomp.ERRNO(error), number, *conditions)

    arg = seccomp.Arg
    try:
        for call in " ".join((PROCESSES, OTHERS, KERNEL, FILES, SERVERS if network else CONNECTIONS)).split():
            deny(call)
        deny("clone3", error=errno.ENOSYS)  # its flags are out of a filter's sight; libc then uses clone
        deny("openat2", error=errno.ENOSYS)
        deny("clone", arg(0, seccomp.MASKED_EQ, CLONE_THREAD, 0))
        for call in ("kill", "tgkill"):
            deny(call, arg(0, seccomp.NE, pid))
        for call in ("prlimit64", "sched_setaffinity"):
            deny(call, arg(0, seccomp.NE, 0))
        for option in (PR_SET_PDEATHSIG, PR_SET_DUMPABLE):
            deny("prctl", arg(0, seccomp.MASKED_EQ, INT, option))
        deny("socketpair", arg(0, seccomp.NE, socket.AF_UNIX))
        deny("socketpair", arg(1, seccomp.MASKED_EQ, 0xF, socket.SOCK_DGRAM))  # could be pointed at other sockets
        deny("socketpair", arg(1, seccomp.MASKED_EQ, 0xF, socket.SOCK_SEQPACKET))
        if network:
            deny("socket", arg(0, seccomp.GT, LAST_FAMILY))
            for family in set(range(LAST_FAMILY + 1)) - NETWORKS:
                deny("socket", arg(0, seccomp.MASKED_EQ, INT, family))
        if not files_guarded:
            for flag in WRITING:
                deny("open", arg(1, seccomp.MASKED_EQ, flag, flag))
                deny("openat", arg(2, seccomp.MASKED_EQ, flag, flag))
        return _exported(rules)
    except OSError as error:
        raise RewardError(f"the filter of system calls could not be made: {error}") from error


def _exported(rules: object) -> bytes:
    descriptor = os.memfd_create("reward-filter")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            rules.export_bpf(file)  # type: ignore[attr-defined]
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)
