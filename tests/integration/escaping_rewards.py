"""Reward functions that reach for what is outside their process; the question's prompt says for what. For the sandbox tests."""

import ctypes
import mmap
import os
import resource
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from rewards import Sample, reward

TARGET = Path(os.environ.get("SANDBOX_TEST_FOLDER", "/nonexistent"))


def reads(path: str) -> float:
    return float(bool(Path(path).read_bytes()))


def connects(family: int, kind: int, address: object) -> float:
    with socket.socket(family, kind) as made:
        made.connect(address)
    return 1.0


def starts_threads() -> float:
    gate = threading.Event()
    threading.stack_size(1 << 16)  # so that memory is not what they run out of
    for _ in range(100):
        threading.Thread(target=gate.wait, daemon=True).start()
    time.sleep(60)
    return 1.0


def burns_on_many_threads() -> float:
    def burn() -> None:
        while True:
            sum(range(10_000))

    threading.Thread(target=burn, daemon=True).start()
    burn()
    return 1.0


def leaves_a_burning_thread() -> float:
    def burn() -> None:
        while True:
            sum(range(1000))

    threading.Thread(target=burn, daemon=True).start()
    return 1.0


def raises_later() -> float:
    def ring(*_: object) -> None:
        raise RuntimeError("the alarm that another one set")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    return 1.0


def dies_later() -> float:
    ctypes.CDLL(None).alarm(1)  # past the interpreter, with the default action: the end of the process
    return 1.0


def hides_from_signals() -> float:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        signal.pause()


def closes_output() -> float:
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    print("to nobody")
    return 1.0


def outlives_its_parent() -> float:
    if ctypes.CDLL(None, use_errno=True).prctl(1, 0, 0, 0, 0) < 0:
        raise PermissionError(ctypes.get_errno(), "prctl")
    return 1.0


def fork_bomb() -> float:
    while True:
        os.fork()


def spare_memory() -> float:
    descriptor = os.memfd_create("mine")
    os.write(descriptor, b"x" * 4096)
    mapped = mmap.mmap(descriptor, 4096)
    with open(os.devnull, "w") as nowhere:
        nowhere.write("x")
    first, second = socket.socketpair()
    first.send(b"x")
    return float(mapped[0] == ord("x") and second.recv(1) == b"x")


def works_in_threads() -> float:
    found: list[float] = []
    threads = [threading.Thread(target=found.append, args=(0.25,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(found)


DEEDS = {
    "good": lambda: 1.0,
    "environment of the parent": lambda: reads(f"/proc/{os.getppid()}/environ"),
    "environment of another": lambda: reads(f"/proc/{Path(TARGET / 'other').read_text()}/environ"),
    "memory of the parent": lambda: reads(f"/proc/{os.getppid()}/mem"),
    "write": lambda: float((TARGET / "new").write_text("x")),
    "append": lambda: float((TARGET / "kept").open("a").write("x")),
    "truncate": lambda: os.truncate(TARGET / "kept", 0) or 1.0,
    "delete": lambda: (TARGET / "kept").unlink() or 1.0,
    "rename": lambda: float(bool((TARGET / "kept").rename(TARGET / "lost"))),
    "folder": lambda: (TARGET / "folder").mkdir() or 1.0,
    "link": lambda: os.symlink("kept", TARGET / "link") or 1.0,
    "mode": lambda: (TARGET / "kept").chmod(0o777) or 1.0,
    "times": lambda: os.utime(TARGET / "kept", (0, 0)) or 1.0,
    "temporary": lambda: float(tempfile.mkstemp()[0]),
    "tcp": lambda: connects(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", int((TARGET / "port").read_text()))),
    "udp": lambda: connects(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 53)),
    "unix": lambda: connects(socket.AF_UNIX, socket.SOCK_STREAM, str(TARGET / "socket")),
    "datagram pair": lambda: float(bool(socket.socketpair(type=socket.SOCK_DGRAM))),
    "fork": lambda: os.fork() or 1.0,
    "fork bomb": fork_bomb,
    "spawn": lambda: float(subprocess.run(["true"], check=True).returncode),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill the parent": lambda: os.kill(os.getppid(), signal.SIGKILL) or 1.0,
    "kill all": lambda: os.kill(-1, signal.SIGKILL) or 1.0,
    "kill the group": lambda: os.killpg(0, signal.SIGKILL) or 1.0,
    "session": lambda: float(os.setsid() is None),
    "more memory": lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40)) or 1.0,
    "outlive": outlives_its_parent,
    "threads": starts_threads,
    "cpu": burns_on_many_threads,
    "burning thread": leaves_a_burning_thread,
    "ring later": raises_later,
    "die later": dies_later,
    "deaf": hides_from_signals,
    "closed output": closes_output,
    "spare": spare_memory,
    "workers": works_in_threads,
    "declared": lambda: float(os.environ["JUDGE_KEY"] == "told"),
}


@reward("escaping")
def escaping(sample: Sample) -> float:
    return DEEDS[sample.question["prompt"]]()
