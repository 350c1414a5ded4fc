"""The real API in a thread, over a real store that holds experiments as jobs and schedulers put them there: for tests of the page."""

from __future__ import annotations

import hashlib
import json
import math
import random
import threading
import time
import wave
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from redis_room import free_port

from orchestrator.rundir import RunDirectory
from orchestrator.service.api.app import create_app
from orchestrator.service.home import Home
from orchestrator.service.intake import take
from orchestrator.service.messages import (
    Bundle,
    Cause,
    Demand,
    Experiment,
    Priority,
    Progress,
    SampledTrajectory,
    State,
)
from orchestrator.service.settings import ServiceSettings
from orchestrator.service.store import Store
from orchestrator.service.tokens import TokenStore

OVERRIDES = ("experiment=demo", "run.seed=7")
DEMAND = Demand((Bundle(1, 0, 2), Bundle(1, 0, 2), Bundle(1, 0, 1)))
STAGES = ("reinforce_1", "reinforce_2")
PLAN = ("cold_start", "select_1", *STAGES, "evaluate")


class ApiThread:
    """The service's API as it is, without scheduler and Ray; stopped and started again at will, on the same port."""

    def __init__(self, home: Home, redis_url: str, prefix: str = "mgrd:") -> None:
        self.home, self.prefix = home, prefix
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = ServiceSettings(redis_url=redis_url, redis_prefix=prefix, port=self.port, rate_burst=2000)
        home.make()
        self.store = Store.from_url(redis_url, prefix)
        self.tokens = TokenStore.from_url(redis_url, prefix)
        self.start()

    def start(self) -> None:
        app = create_app(self.settings, self.store, self.tokens, home=self.home)
        self.server = uvicorn.Server(
            uvicorn.Config(app, port=self.port, log_level="critical", timeout_graceful_shutdown=2)
        )
        self.thread = threading.Thread(target=self.server.run, name="api", daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 30
        while not self.server.started:
            assert self.thread.is_alive() and time.monotonic() < deadline, "the API did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        """At once: open streams are cut off."""
        self.server.force_exit = self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        self.tokens.close()
        self.store.close()


class Room:
    """A folder for files and a store; every method is what a user, a scheduler or a job does."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.store = store
        self.random = random.Random(11)
        self.config = take(OVERRIDES, (folder,)).yaml

    def submit(self, id: str, **fields: Any) -> Experiment:
        base = Experiment(
            id=id,
            name=id.rsplit("-", 1)[0],
            user="ada",
            state=State.QUEUED,
            priority=Priority.NORMAL,
            overrides=OVERRIDES,
            demand=DEMAND,
            submitted_at=time.time(),
            run_dir=str(self.folder / "runs" / id),
            config_sha256="",
        )
        (self.folder / "runs" / id / "logs").mkdir(parents=True, exist_ok=True)
        return self.store.submit(replace(base, **fields), self.config)[0]

    def start(self, id: str) -> Experiment:
        """Claimed by a scheduler, at work. Returns it with its attempt and lease."""
        with self.store.round("scheduler-1") as mine:
            assert mine
            claimed = self.store.claim(id, "scheduler-1", 600.0)
        assert claimed is not None
        self.store.running(id, claimed.attempt)
        return claimed

    def update(self, id: str, number: int, total: int = 60, attempt: int = 1, **more: Any) -> None:
        """One policy update, as a run reports it."""
        metrics = self.metrics(number, total)
        stage = STAGES[0] if number <= total // 2 else STAGES[1]
        progress = Progress(
            stage=stage,
            stages_done=2 + (number > total // 2),
            stages_total=5,
            update=number,
            updates_total=total,
            reward=metrics["reward/mean"],
            accuracy=metrics["accuracy"],
            tokens_per_s=1874.0,
            invalid_share=0.004,
            reward_p95_s=0.031,
            eta_s=(total - number) * 7.3,
            at=time.time(),
            plan=PLAN,
        )
        record = {"update": number, "stage": stage, "version": number, "metrics": metrics}
        with RunDirectory(self.folder / "runs" / id).updates_file.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.store.report(id, attempt, kind="update", data=record, progress=progress, **more)

    def metrics(self, number: int, total: int) -> dict[str, float]:
        learnt = 1 - math.exp(-3 * number / total)
        noise = self.random.gauss
        accuracy = min(1.0, max(0.0, 0.27 + 0.45 * learnt + noise(0, 0.035)))
        return {
            "reward/mean": 0.8 * accuracy + 0.2 * min(1.0, 0.6 + 0.4 * learnt) + noise(0, 0.008),
            "accuracy": accuracy,
            "think/tokens": 21 + 34 * learnt**2 + noise(0, 1.6),
            "think/true_perceptions": min(1.0, 0.38 + 0.41 * learnt + noise(0, 0.03)),
        }

    def clip(self, name: str, hertz: Sequence[float], seconds: float = 1.5) -> tuple[str, str]:
        """A real recording: tones one after the other. Returns its SHA-256 and its path."""
        rate, path = 16_000, self.folder / "runs" / "clips" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        count = int(rate * seconds)
        samples = bytearray()
        for i in range(count):
            pitch = hertz[i * len(hertz) // count]
            samples += int(9000 * math.sin(2 * math.pi * pitch * i / rate)).to_bytes(2, "little", signed=True)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(bytes(samples))
        return hashlib.sha256(path.read_bytes()).hexdigest(), str(path)

    def sample(self, number: int, clips: Sequence[tuple[str, str]], **fields: Any) -> SampledTrajectory:
        base = SampledTrajectory(
            id=f"q{number:04d}/3",
            update=number,
            stage=STAGES[0],
            question="In which order do the pitches of the three tones come?",
            choices=("low, middle, high", "high, low, middle", "middle, high, low"),
            answer="low, middle, high",
            reasoning="I hear three tones of about half a second. The first one is the lowest; each one after it is higher than the "
            "one before, by roughly a third. So the order is low, middle, high.",
            reply="low, middle, high",
            correct=True,
            score=1.0,
            reason="",
            components={"answer": 1.0, "think_present": 1.0, "grounding": 0.86},
            clips=tuple(clips),
        )
        return replace(base, **fields)

    def log(self, id: str, component: str, text: str) -> None:
        path = self.folder / "runs" / id / "logs" / f"{component}.log"
        with path.open("a") as file:
            file.write(text)

    def finish(self, id: str, state: State, *, reason: str = "", cause: Cause = Cause.NONE, updates: int = 0) -> None:
        """Starts it, makes some policy updates and ends it."""
        attempt = self.start(id).attempt
        for number in range(1, updates + 1):
            self.update(id, number, total=updates if state is State.SUCCEEDED else 60, attempt=attempt)
        self.store.finish(id, attempt, state, reason=reason, cause=cause)

    def populate(self) -> str:
        """A working day of three people. Returns the id of a long run that has everything."""
        now, run = time.time(), "mgrd_tiny-4f81c2"
        for i, (name, user) in enumerate([("baseline", "grace"), ("lr_sweep", "linus"), ("judge_v2", "ada")] * 4):
            id = f"{name}-{0xA31C + 7919 * i:06x}"
            self.submit(id, user=user, submitted_at=now - 86_400 * 2 + 3600 * i, tags={"paper": "table 3"})
            self.finish(id, State.SUCCEEDED, updates=6)
        self.submit("grounding-9be210", user="grace", submitted_at=now - 9000)
        self.finish("grounding-9be210", State.FAILED, updates=9, cause=Cause.RUN, reason=FAILURE)
        self.submit("long_context-77d1e0", user="linus", submitted_at=now - 8000)
        self.finish("long_context-77d1e0", State.FAILED, cause=Cause.INFRASTRUCTURE, reason=LOST)
        self.submit("baseline-e00c41", user="grace", submitted_at=now - 7600)
        self.finish("baseline-e00c41", State.PAUSED, updates=14, reason="paused by grace")
        self.submit(run, priority=Priority.HIGH, submitted_at=now - 3200, tags={"paper": "figure 2"})
        attempt = self.start(run).attempt
        link = {
            "mlflow_run": "b1946ac92492d2347c6235b4d2611184",
            "mlflow_url": "http://127.0.0.1:5000/#/experiments/1/runs/b1946ac9",
        }
        for number in range(1, 42):
            self.update(run, number, attempt=attempt, **link)
        self.populate_samples(run, attempt)
        self.submit("judge_v2-1c77aa", user="linus", submitted_at=now - 1800)
        attempt = self.start("judge_v2-1c77aa").attempt
        for number in range(1, 8):
            self.update("judge_v2-1c77aa", number, attempt=attempt)
        for i in range(5):
            priority = (Priority.HIGH, Priority.NORMAL, Priority.LOW)[i % 3]
            self.submit(
                f"lr_sweep-{0xC0FFE0 + i:06x}",
                user="linus",
                priority=priority,
                submitted_at=now - 600 + 60 * i,
                parent="sweep-51",
            )
        return run

    def populate_samples(self, id: str, attempt: int) -> None:
        rising, falling = self.clip("rising", (262, 330, 392)), self.clip("falling", (392, 330, 262))
        wrong = {
            "reply": "high, low, middle",
            "correct": False,
            "score": 0.2,
            "components": {"answer": 0.0, "think_present": 1.0, "grounding": 0.33},
        }
        invalid = {
            "score": None,
            "reason": "judge: no answer within 20 s, tried 3 times",
            "components": {"think_present": 1.0},
            "correct": False,
        }
        samples = [
            self.sample(41, [rising]),
            self.sample(40, [falling, rising], **wrong),
            self.sample(39, [falling], **invalid),
        ]
        self.store.keep_samples(id, attempt, samples)
        for line in range(400):
            self.log(
                id,
                "driver",
                f"17:{line // 60:02d}:{line % 60:02d} policy update {line // 10}: reward \x1b[32m{0.4 + line / 1000:.3f}\x1b[0m\n",
            )
        self.log(id, "rollout-0", "engine up: 2 sequences a second\n")


FAILURE = """\
RunFailed: policy update 10: engine and trainer disagree by 0.031 nats, more than the limit of 0.001
  in stage reinforce_1, after 9 policy updates; the engines hold version 9
  set rollout.dtype=float32, or look at the probe's sequences in probe/000010.json"""
LOST = "the machine 10.0.3.17 left the cluster (no heartbeat for 30 s); tried 3 of 3 times, last at policy update 0"
