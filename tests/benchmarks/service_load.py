"""What the service takes: submits a second, events to 200 watchers, a scheduler's decision over 10,000 waiting experiments, memory.

    python tests/benchmarks/service_load.py [--submits 400] [--watchers 200] [--events 400] [--queued 10000] [--nodes 125]

A real API process on a real Valkey; events are reported as a job reports them, and the decision reads the store as a scheduler does. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

CALLERS = 8  # that submit at once
RATE_PER_S = 20.0  # events: ten times what a busy cluster reports
ROUNDS = 5
MIB = 1 << 20


def main() -> None:
    options = _options()
    from redis_room import RedisRoom, free_port

    from orchestrator.service.store import Store
    from orchestrator.service.tokens import TokenStore

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        redis = RedisRoom(folder, "--appendfsync", "always")
        store = Store.from_url(redis.url)
        _, secret = TokenStore(store.link).create("load", "load", "admin")
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.service.api", "--redis-url", redis.url, "--port", str(port)],
            env=os.environ
            | {
                "MGRD_STATE": name,
                "MGRD_RATE_PER_S": "1e6",
                "MGRD_RATE_BURST": "1000000",
                "MGRD_QUOTA_QUEUED": "1000000",
            },
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process)
            headers = {"Authorization": f"Bearer {secret}"}
            api = psutil.Process(process.pid)
            submits(url, headers, 50)  # caches, threads and connections are there before memory is measured
            asyncio.run(events(port, headers, store, 20, options.watchers))
            before = api.memory_info().rss
            began = time.perf_counter()
            latencies = submits(url, headers, options.submits)
            submits_per_s = options.submits / (time.perf_counter() - began)
            delays, lost = asyncio.run(events(port, headers, store, options.events, options.watchers))
            filled_s = fill(store, options.queued)
            rounds = [decision(store, options.nodes) for _ in range(ROUNDS)]
            listed = _timed(lambda: httpx.get(f"{url}/v1/experiments?limit=100", headers=headers, timeout=60.0))
            scraped = _timed(lambda: httpx.get(f"{url}/metrics", timeout=60.0))
            growth = api.memory_info().rss - before
        finally:
            process.terminate()
            process.wait(30)
            store.close()
            redis.kill()
    whole = [read + decided for read, decided, _ in rounds]
    rows = [
        ("machine", f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"),
        (
            "submits",
            f"{options.submits} by {CALLERS} callers, each with another configuration; Valkey syncs every write",
        ),
        ("submits a second", f"{submits_per_s:.1f}"),
        ("a submit, p50 / p99", f"{_ms(latencies, 50):.0f} / {_ms(latencies, 99):.0f} ms"),
        (
            "events",
            f"{options.events} at {RATE_PER_S:g} a second to {options.watchers} watchers, {lost} deliveries lost",
        ),
        ("report to arrival, p50 / p99", f"{_ms(delays, 50):.1f} / {_ms(delays, 99):.1f} ms"),
        (
            "queue",
            f"{options.queued} experiments (stored at {options.queued / filled_s:.0f} a second), {options.nodes} machines",
        ),
        ("reading queue and running", f"{statistics.median(row[0] for row in rounds) * 1e3:.0f} ms"),
        ("deciding, that many start", f"{statistics.median(row[1] for row in rounds) * 1e3:.0f} ms, {rounds[-1][2]}"),
        ("list of 100, /metrics", f"{listed * 1e3:.0f} ms, {scraped * 1e3:.0f} ms"),
        ("memory of the API, growth", f"{before / MIB:.0f} MiB, {growth / MIB:+.1f} MiB"),
    ]
    for key, value in rows:
        print(f"{key:<30} {value}")
    print(
        json.dumps(
            {
                "submits_per_s": round(submits_per_s, 1),
                "event_p50_ms": round(_ms(delays, 50), 1),
                "event_p99_ms": round(_ms(delays, 99), 1),
                "schedule_ms_at_10000": round(statistics.median(whole) * 1e3, 1),
                "rss_growth_mb": round(growth / MIB, 1),
            }
        )
    )


def submits(url: str, headers: dict[str, str], count: int) -> list[float]:
    """Seconds of each, from CALLERS threads; every one has a seed of its own, so that none is composed twice."""
    first = int(time.time() * 1000) % 10**9
    clients = [httpx.Client(base_url=url, headers=headers, timeout=120.0) for _ in range(CALLERS)]

    def one(number: int) -> float:
        body = {"overrides": ["experiment=micro", f"run.seed={first + number}"]}
        began = time.perf_counter()
        clients[number % CALLERS].post("/v1/experiments", json=body).raise_for_status()
        return time.perf_counter() - began

    with ThreadPoolExecutor(CALLERS) as threads:
        found = list(threads.map(one, range(count)))
    for client in clients:
        client.close()
    return found


async def events(port: int, headers: dict[str, str], store: Any, count: int, watchers: int) -> tuple[list[float], int]:
    """(seconds from before the report to the arrival of each delivery, deliveries that never came)"""
    opened, delays = asyncio.Semaphore(0), [[] for _ in range(watchers)]
    tasks = [asyncio.create_task(_watch(port, headers, opened, mine, count)) for mine in delays]
    for _ in tasks:
        await asyncio.wait_for(opened.acquire(), 120.0)
    reporting = threading.Thread(target=_report, args=(store, count))
    reporting.start()
    await asyncio.wait(tasks, timeout=count / RATE_PER_S + 60.0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(reporting.join)
    flat = [delay for mine in delays for delay in mine]
    return flat, watchers * count - len(flat)


async def _watch(
    port: int, headers: dict[str, str], opened: asyncio.Semaphore, delays: list[float], count: int
) -> None:
    """A bare reader: 200 of a real client's would measure the client."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    lines = [
        "GET /v1/events HTTP/1.1",
        "Host: localhost",
        *(f"{key}: {value}" for key, value in headers.items()),
        "",
        "",
    ]
    writer.write("\r\n".join(lines).encode())
    try:
        line = await reader.readline()
        if b" 200 " not in line:
            raise SystemExit(f"a watcher was refused: {line.decode()}")
        while not line.startswith(b"retry:"):
            line = await reader.readline()
            if not line:
                raise SystemExit("a stream ended before it began")
        opened.release()
        while len(delays) < count:
            line = await reader.readline()
            if not line:
                return
            if line.startswith(b"data:") and b'"sent":' in line:
                now = time.time()
                delays.append(now - float(line.split(b'"sent":')[1].split(b"}")[0].split(b",")[0]))
    finally:
        writer.close()


def _report(store: Any, count: int) -> None:
    """As a job does, at an even pace; the experiment of the first claim."""
    waiting = store.queued()[0]
    claimed = store.claim(waiting.id, "load", 600.0)
    store.running(claimed.id, claimed.attempt)
    begin = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begin + number / RATE_PER_S - time.monotonic()))
        store.report(claimed.id, claimed.attempt, kind="update", data={"update": number, "sent": time.time()})


def fill(store: Any, count: int) -> float:
    """Queue up to `count` experiments of 50 users, from one core to eight GPUs. Returns the seconds it took."""
    from orchestrator.service.messages import Bundle, Demand, Experiment, Priority, State

    sizes = [Demand((Bundle(1.0, gpus),) * ranks) for gpus, ranks in ((0.0, 2), (1.0, 1), (1.0, 4), (1.0, 8), (8.0, 2))]
    have = store.counts()[State.QUEUED]

    def one(number: int) -> None:
        id = f"fill-{number:06d}"
        made = Experiment(
            id=id,
            name="fill",
            user=f"user{number % 50}",
            state=State.QUEUED,
            priority=list(Priority)[number % 3],
            overrides=("experiment=micro", f"run.seed={number}"),
            demand=sizes[number % len(sizes)],
            submitted_at=0.0,
            run_dir=f"/runs/{id}",
            config_sha256="",
            tags={"team": "audio"},
        )
        store.submit(made, "run: {}\n")

    began = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as threads:
        list(threads.map(one, range(max(0, count - have))))
    return time.perf_counter() - began


def decision(store: Any, machines: int) -> tuple[float, float, int]:
    """(seconds of reading, seconds of deciding, how many would start) on machines of 8 GPUs."""
    from orchestrator.service.placement import Node
    from orchestrator.service.policy import PolicySettings, decide

    began = time.perf_counter()
    waiting, active = store.queued(), store.active()
    read = time.perf_counter()
    nodes = [Node.empty(f"node{number:04d}", cpus=64.0, gpus=8.0, memory_gib=512.0) for number in range(machines)]
    decisions = decide(waiting, active, nodes, PolicySettings(), time.time())
    end = time.perf_counter()
    return read - began, end - read, sum(decision.start for decision in decisions)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300.0
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/healthz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit("the API did not start")


def _timed(call: Callable[[], httpx.Response]) -> float:
    began = time.perf_counter()
    call().raise_for_status()
    return time.perf_counter() - began


def _ms(seconds: list[float], percentile: int) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[percentile - 1] * 1e3


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--submits", type=int, default=400)
    parser.add_argument("--watchers", type=int, default=200)
    parser.add_argument("--events", type=int, default=400)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=125, help="machines of 8 GPUs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
