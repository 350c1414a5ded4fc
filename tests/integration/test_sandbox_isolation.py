"""What a reward function can reach outside its process: nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import escaping_rewards  # noqa: F401  registers the function used here
import psutil
import pytest
from sandbox_room import Room, room

from rewards.errors import RewardError
from rewards.isolation import chosen, landlock_version
from rewards.isolation_calls import _library
from rewards.sandbox_wire import Outcome

REFUSED = "raised PermissionError: [Errno 1] Operation not permitted"
GUARDED = "raised PermissionError: [Errno 13] Permission denied"
REASONS = {
    "environment of the parent": GUARDED,
    "environment of another": GUARDED,
    "memory of the parent": GUARDED,
    "write": GUARDED,
    "append": GUARDED,
    "truncate": REFUSED,
    "delete": REFUSED,
    "rename": REFUSED,
    "folder": REFUSED,
    "link": REFUSED,
    "mode": REFUSED,
    "times": REFUSED,
    "temporary": "raised FileNotFoundError: [Errno 2] No usable temporary directory",
    "tcp": REFUSED,
    "udp": REFUSED,
    "unix": REFUSED,
    "datagram pair": REFUSED,
    "fork": REFUSED,
    "fork bomb": REFUSED,
    "spawn": REFUSED,
    "exec": REFUSED,
    "kill the parent": REFUSED,
    "kill all": REFUSED,
    "kill the group": REFUSED,
    "session": REFUSED,
    "more memory": "raised ValueError: not allowed to raise maximum limit",
    "outlive": "raised PermissionError: [Errno 1] prctl",
    "threads": "started more than 64 threads and was killed",
    "deaf": "timed out after 1.0 s and was killed",
}
HARMLESS = ("ring later", "die later", "closed output", "spare", "workers", "burning thread")

needs_file_rules = pytest.mark.skipif(landlock_version() == 0, reason="the kernel has no Landlock")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Holds a file, the number of an open port, and the id of a process with a secret in its environment."""
    made = tmp_path_factory.mktemp("outside")
    (made / "kept").write_text("precious")
    (made / "kept").chmod(0o644)
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    other = subprocess.Popen(command, env={"SECRET": "1"})
    (made / "other").write_text(str(other.pid))
    server = socket.create_server(("127.0.0.1", 0))
    (made / "port").write_text(str(server.getsockname()[1]))
    here = socket.socket(socket.AF_UNIX)
    here.bind(str(made / "socket"))
    here.listen()
    yield made
    server.close()
    here.close()
    other.kill()
    other.wait(10)


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, tuple[Outcome, Outcome]]:
    """One batch: every deed, each followed by a good sample."""
    deeds = [*REASONS, *HARMLESS]
    with room("escaping", environment={"SANDBOX_TEST_FOLDER": str(folder)}) as started:
        found = started.score([kind for deed in deeds for kind in (deed, "good")])
    return dict(zip(deeds, zip(found[::2], found[1::2], strict=True), strict=True))


@needs_file_rules
@pytest.mark.parametrize("deed", REASONS)
def test_reaching_out_is_invalid_with_its_reason_and_the_neighbour_is_scored(
    outcomes: dict[str, tuple[Outcome, Outcome]], deed: str
) -> None:
    failed, neighbour = outcomes[deed]
    assert failed.score is None
    assert failed.reason.startswith(f"escaping {REASONS[deed]}")
    assert neighbour.score == 1.0


@pytest.mark.parametrize("deed", HARMLESS)
def test_what_harms_nobody_is_scored_and_so_is_its_neighbour(
    outcomes: dict[str, tuple[Outcome, Outcome]], deed: str
) -> None:
    assert [outcome.score for outcome in outcomes[deed]] == [1.0, 1.0]


def test_nothing_outside_has_changed(outcomes: dict[str, tuple[Outcome, Outcome]], folder: Path) -> None:
    assert outcomes
    assert sorted(path.name for path in folder.iterdir()) == ["kept", "other", "port", "socket"]
    assert (folder / "kept").read_text() == "precious"
    assert (folder / "kept").stat().st_mode & 0o777 == 0o644
    assert psutil.pid_exists(int((folder / "other").read_text()))


def test_an_alarm_that_one_sets_does_not_ring_in_another() -> None:
    with room("escaping") as started:
        outcomes = started.score([deed for _ in range(20) for deed in ("ring later", "good", "good")])
        assert {outcome.score for outcome in outcomes} == {1.0}
        assert started.sandbox.processes_started == 1


def test_cpu_time_has_a_limit_of_its_own() -> None:
    with room("escaping", timeout_s=60.0, cpu_s=0.5) as started:
        burning, good = started.score(["cpu", "good"])
    assert burning.reason == "escaping used more than 0.5 s of CPU time and was killed"
    assert good.score == 1.0


def test_a_thread_left_behind_does_not_make_others_guilty() -> None:
    with room("escaping", cpu_s=0.3) as started:
        assert {outcome.score for outcome in started.score(["burning thread", "good", "workers", "good"])} == {1.0}


def test_a_declared_network_lets_it_connect_but_not_to_local_sockets(folder: Path) -> None:
    with room("escaping", network=True, environment={"SANDBOX_TEST_FOLDER": str(folder)}) as started:
        tcp, unix, fork = started.score(["tcp", "unix", "fork"])
    assert tcp.score == 1.0
    assert unix.reason == fork.reason == f"escaping {REFUSED}"


def test_variables_it_was_given_are_there() -> None:
    with room("escaping", environment={"JUDGE_KEY": "told"}) as started:
        assert started.score(["declared"])[0].score == 1.0


def test_without_the_library_it_refuses_to_start_unless_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    _library.cache_clear()
    try:
        with pytest.raises(RewardError, match=r"can't be isolated.*libseccomp.*MGRD_REWARD_ISOLATION=limits"):
            started("")
        monkeypatch.setenv("MGRD_REWARD_ISOLATION", "limits")
        started("")
        with pytest.raises(RewardError, match=r"can't be isolated"):
            started("full")
    finally:
        _library.cache_clear()


def started(isolation: str) -> None:
    with room("escaping", isolation=isolation) as there:
        assert there.score(["good"])[0].score == 1.0


def test_an_unknown_way_of_isolation_is_refused() -> None:
    with pytest.raises(RewardError, match="must be 'full' or 'limits'"):
        chosen("some")


def test_limits_alone_still_kill(folder: Path) -> None:
    with room("escaping", isolation="limits", environment={"SANDBOX_TEST_FOLDER": str(folder)}) as there:
        deaf, good, connected = there.score(["deaf", "good", "tcp"])
    assert deaf.reason == "escaping timed out after 1.0 s and was killed"
    assert good.score == connected.score == 1.0


def test_without_file_rules_of_the_kernel_the_filter_keeps_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards.sandbox_process.landlock_version", lambda: 0)
    with room("escaping", environment={"SANDBOX_TEST_FOLDER": str(folder)}) as there:
        written, appended, good = there.score(["write", "append", "good"])
    assert written.reason.startswith(f"escaping {REFUSED}") and appended.reason.startswith(f"escaping {REFUSED}")
    assert good.score == 1.0


@pytest.fixture
def there() -> Iterator[Room]:
    with room("escaping") as made:
        yield made


def test_the_process_runs_without_privileges(there: Room) -> None:
    status = Path(f"/proc/{there.sandbox.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == int(fields["CapBnd"], 16) == 0 or os.getuid() != 0
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"


UNPRIVILEGED = """
import ctypes, os, sys
from rewards import isolation
from rewards.isolation_calls import filter_program
filter_program(1, network=False, files_guarded=True)  # loads the library, which others may not read
os.setgroups([]); os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # readable for the same user, as a process that never was root
parent = os.getpid()
child = os.fork()
if child == 0:
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
    environ = f"/proc/{parent}/environ"
    assert open(environ, "rb").read()
    version = isolation.landlock_version()
    isolation.enter(filter_program(os.getpid(), network=False, files_guarded=True), version)
    for deed in (lambda: open(environ, "rb").read(), lambda: open("/tmp/mine", "w"), lambda: os.kill(parent, 9), os.fork):
        try:
            deed()
        except PermissionError:
            continue
        os._exit(1)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_file_rules
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_user_without_privileges_is_isolated_as_well() -> None:
    done = subprocess.run([sys.executable, "-c", UNPRIVILEGED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
