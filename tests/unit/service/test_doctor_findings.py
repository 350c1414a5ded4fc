"""What the doctor says of made-up machines: every check, fine and not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orchestrator.doctor import content, machine, servers, software
from orchestrator.doctor.findings import Finding, Level, fail, ok, warn, worst
from orchestrator.service.home import ProcessRecord, ServiceRecord
from orchestrator.service.settings import keys, variable

OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL
H100 = "NVIDIA H100 80GB HBM3, 570.86.10, 81559"
RUNNING = ServiceRecord(url="http://127.0.0.1:8420")


def versions(**held: str):
    return lambda name: held.get(name, "")


CASES: list[tuple[Finding, Level, str]] = [
    (software.python("3.11.7"), OK, "3.11.7"),
    (software.python("3.13.0"), FAIL, "needs"),
    (software.declared_packages(["ray>=2.50", 'vllm==1; extra == "gpu"'], versions(ray="2.60"), ["cpu"]), OK, "1 as"),
    (software.declared_packages(["ray>=2.50"], versions(ray="2.40"), ["cpu"]), FAIL, "ray 2.40, needs >=2.50"),
    (software.declared_packages(['vllm; extra == "gpu"'], versions(), ["gpu"]), FAIL, "vllm is missing"),
    (software.pinned_packages("# head\na==1\nb==2\n", versions(a="1", b="2")), OK, "2 as tested"),
    (software.pinned_packages("a==1\nb==2\n", versions(a="1")), WARN, "1 of 2 differ: b absent instead of 2"),
    (software.torch_family(versions()), FAIL, "absent"),
    (software.torch_family(versions(torch="2.13.0+cpu", torchvision="0.28.0")), FAIL, "torchvision"),
    (software.torch_family(versions(torch="2.13.0+cu128", torchvision="0.28.0")), OK, "cu128"),
    (software.importable({"torch": True, "vLLM": False}), FAIL, "vLLM can't be imported"),
    (software.variables({"MGRD_STATE": "/x", "PATH": ""}, []), OK, "MGRD_STATE"),
    (software.variables({"MGRD_REDIS_ULR": "x"}, ["MGRD_REDIS_URL"]), WARN, "did you mean MGRD_REDIS_URL"),
    (software.variables({"MGRD_SECRET_OPENAI": "x"}, []), OK, "none set"),
    (machine.devices(machine.Devices(None), "2.13.0+cpu"), OK, "none"),
    (machine.kernels(machine.Devices(None), ""), OK, "torch (auto: the trainer runs on device=cpu"),
    (machine.kernels(machine.Devices((H100,), cuda=1), ""), WARN, "Transformer Engine is not installed"),
    (machine.kernels(machine.Devices((H100,), cuda=1), "2.9.0"), OK, "transformer_engine (Transformer Engine 2.9.0"),
    (machine.devices(machine.Devices((H100, H100), cuda=2), "2.13.0+cu128"), OK, "2: NVIDIA H100 80GB HBM3; NVIDIA"),
    (machine.devices(machine.Devices((H100,)), "2.13.0+cpu"), WARN, "can't use them"),
    (machine.devices(machine.Devices((H100,), cuda=0, cuda_complaint="driver too old"), "2.13.0"), FAIL, "driver too old"),
    (machine.devices(machine.Devices((), "driver/library version mismatch"), "2.13.0"), FAIL, "mismatch"),
    (machine.instructions("x86_64", {"avx2", "avx512f"}), OK, "avx512f"),
    (machine.instructions("x86_64", {"avx2"}), WARN, "without AVX-512"),
    (machine.instructions("x86_64", {"sse4_2"}), FAIL, "no AVX2"),
    (machine.instructions("aarch64", set()), OK, "aarch64"),
    (machine.memory(10.0, 16.0, 4.0), OK, "10.0 of 16.0 GiB free"),
    (machine.memory(3.0, 16.0, 4.0), WARN, "wants 4.0"),
    (machine.shared_memory(0.0625, 0.5), WARN, "0.06 GiB in /dev/shm"),
    (machine.shared_memory(8.0, 0.5), OK, "8.0 GiB"),
    (machine.disk(machine.Disk("state", "/s", 40.0), 5.0), OK, "40.0 GiB free in /s"),
    (machine.disk(machine.Disk("state", "/s", 3.0), 5.0), WARN, "3.0 GiB"),
    (machine.disk(machine.Disk("state", "/s", 0.5), 5.0), FAIL, "0.5 GiB"),
    (machine.disk(machine.Disk("state", "/s", 40.0, "not writable"), 5.0), FAIL, "/s: not writable"),
    (machine.descriptors(512), FAIL, "512"),
    (machine.descriptors(2048), WARN, "2048"),
    (machine.port(8420, True, False), OK, "8420 is free"),
    (machine.port(8420, False, True), OK, "own"),
    (machine.port(8420, False, False), FAIL, "in use by another"),
    (machine.shared_folder("ext4", "/s", False), OK, "/s (ext4)"),
    (machine.shared_folder("ext4", "/s", True), WARN, "Ray runs elsewhere"),
    (machine.shared_folder("nfs4", "/s", True), OK, "shared"),
    (servers.mlflow("http://m", servers.Answer(200, '"3.17.2"'), "3.17.2"), OK, "version 3.17.2"),
    (servers.mlflow("http://m", servers.Answer(200, "2.9.0"), "3.17.2"), WARN, "server 2.9.0, client 3.17.2"),
    (servers.mlflow("http://m", servers.Answer(0, "does not answer"), "3.17.2"), FAIL, "does not answer"),
    (servers.ray("h:1", servers.Answer(200, ""), "2.60.0", "2.60.0"), OK, "2.60.0"),
    (servers.ray("h:1", servers.Answer(200, ""), "2.59.0", "2.60.0"), FAIL, "version 2.59.0, here 2.60.0"),
    (servers.ray("h:1", servers.Answer(401, ""), "unknown", "2.60.0"), FAIL, "asks for a token"),
    (servers.ray("h:1", servers.Answer(0, "does not answer"), "unknown", "2.60.0"), FAIL, "does not answer"),
    (servers.service(RUNNING, (), servers.Answer(0, "")), OK, "stopped"),
    (servers.service(ServiceRecord(error="no disk"), (), servers.Answer(0, "")), WARN, "no disk"),
    (content.model("tiny", {"a": False, "the cache": True}), OK, "in the cache"),
    (content.model("tiny", {"a": False}), WARN, "not on this machine"),
    (content.model_folder("model.path", "/m", ["config.json", "tokenizer_config.json", "a.safetensors"]), OK, "/m"),
    (content.model_folder("model.path", "/m", ["config.json"]), FAIL, "lacks tokenizer_config.json, weights"),
    (content.data(Path("/d/t"), Path("/d/h"), (True, True), "acoustic_qa"), OK, "/d"),
    (content.data(Path("/d/t"), Path("/d/h"), (True, False), "acoustic_qa"), WARN, "/d/h does not exist yet"),
    (content.data(Path("/d/t"), Path("/d/h"), (False, False), ""), FAIL, "/d/t does not exist"),
    (content.roots(["/gone"], ["/gone", "/there"]), WARN, "/gone"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("finding", "level", "found"), CASES, ids=[f"{c[0].name}-{c[1]}-{i}" for i, c in enumerate(CASES)]
)
def test_finding_has_its_level_says_what_is_and_what_to_do(finding: Finding, level: Level, found: str) -> None:
    assert finding.level is level
    assert found in finding.found
    assert bool(finding.advice) is (level is not OK)


def redis_levels(facts: servers.RedisFacts) -> dict[str, Level]:
    return {finding.name: finding.level for finding in servers.redis_keeps("redis://:secret@h:1/0", facts)}


def test_redis_is_judged_by_version_by_what_it_keeps_and_by_its_clock() -> None:
    fine = servers.RedisFacts("7.2.4")
    assert set(redis_levels(fine).values()) == {OK}
    assert redis_levels(dataclasses.replace(fine, version="6.0.16"))["Redis"] is FAIL
    assert redis_levels(dataclasses.replace(fine, problems=("appendonly is off",)))["Redis keeps its data"] is FAIL
    assert redis_levels(dataclasses.replace(fine, skew_s=-3.0))["clock"] is WARN
    assert redis_levels(dataclasses.replace(fine, skew_s=60.0))["clock"] is FAIL
    assert redis_levels(servers.RedisFacts(complaint="refused")) == {"Redis": FAIL}


def test_passwords_are_not_shown() -> None:
    for facts in (servers.RedisFacts("7.2.4"), servers.RedisFacts(complaint="refused")):
        assert not any("secret" in f.found + f.advice for f in servers.redis_keeps("redis://:secret@h:1/0", facts))


def test_running_service_is_judged_by_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServiceRecord, "alive", property(lambda self: True))
    fine, ready = ProcessRecord("api", 1, 1, 0.0, ready=True), servers.Answer(200, "")
    assert servers.service(RUNNING, [fine], ready).level is OK
    assert (
        "api, ray of"
        in servers.service(
            RUNNING, [dataclasses.replace(fine, ready=False), ProcessRecord("ray", 1, 1, 0.0)], ready
        ).found
    )
    assert servers.service(RUNNING, [fine], servers.Answer(503, "mlflow away")).level is FAIL
    often = servers.service(RUNNING, [dataclasses.replace(fine, restarts=3)], ready)
    assert (often.level, "api 3 times" in often.found) == (WARN, True)


def test_disk_probe_writes_nothing_that_stays_and_names_what_is_no_folder(tmp_path: Path) -> None:
    assert machine.gather_disk("state", tmp_path).problem == ""
    assert machine.gather_disk("state", tmp_path / "not" / "yet").free_gib > 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert "is a file" in machine.gather_disk("state", tmp_path / "file").problem


def test_container_with_less_memory_than_its_machine_is_seen(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{8 << 30}\n")
    (tmp_path / "memory.current").write_text(f"{6 << 30}\n")
    assert machine.gather_memory(100 << 30, 128 << 30, tmp_path) == (2.0, 8.0)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.gather_memory(100 << 30, 128 << 30, tmp_path) == (100.0, 128.0)


def test_file_system_is_that_of_the_longest_mount_point() -> None:
    mounts = [("/", "ext4"), ("/data", "nfs4"), ("/data/local", "xfs")]
    assert machine.file_system(Path("/data/runs"), mounts) == "nfs4"
    assert machine.file_system(Path("/data/local/runs"), mounts) == "xfs"
    assert machine.file_system(Path("/database"), mounts) == "ext4"


def test_every_setting_of_the_service_is_a_known_variable() -> None:
    set_all = {variable(key): "1" for key in keys()}
    assert software.variables(set_all, [variable(key) for key in keys()]).level is OK


def test_finding_without_advice_or_with_needless_advice_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="advice"):
        warn("a", "b", "")
    with pytest.raises(ValueError, match="advice"):
        Finding("a", OK, "b", "c")
    assert worst([ok("a", "b"), fail("a", "b", "c"), warn("a", "b", "c")]) is FAIL
    assert worst([]) is OK
