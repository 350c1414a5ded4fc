"""One vLLM engine: generate, swap weights, probe. Knows nothing of Ray, Redis or rewards.

Neighbours: `worker` wraps it in an actor; `rollout.model.vllm_plugin` is the model inside; `audio` wrote the features.
Invariants: a batch is submitted whole while the scheduler is paused, from empty caches, so the same batch and seeds on
the same weights give bitwise the same tokens; each token carries the version of the weights that sampled it; log-probs
are of the raw distribution at temperature 1; the prompt as the engine expanded it is the trainer's prompt.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rollout.errors import EngineDied, RequestRefused, WeightsLost, WeightsRefused, reason
from rollout.launch import EngineSpec, engine_args, engine_environment
from rollout.messages import (
    FinishReason,
    LiveWeights,
    NewWeights,
    ProbeSequence,
    Prompt,
    SamplingSpec,
    SharedWeights,
    SwapReport,
    Trajectory,
)
from rollout.transfer import Receipt

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

__all__ = ["Engine", "EngineDied", "EngineSpec", "Outcome"]

logger = logging.getLogger(__name__)

SHUTDOWN_S = 1.0  # then the engine core is killed; it holds nothing worth saving and seldom ends by itself
BAN = -100.0  # the lowest logit bias vLLM takes; exp(-100) is no chance in float32


Outcome = list[Trajectory] | RequestRefused
Fetch = Callable[[Any], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class _Job:
    """One question on its way through the engine. parts: vLLM requests that make up its samples, in order."""

    prompt: Prompt
    spec: SamplingSpec
    id: str
    version: int
    parts: tuple[Any, ...]


class Engine:
    """An engine on one machine, used from one event loop. Batches take turns; a swap does not wait for them.

    The version is 0 until the first swap: the weights of `spec.model_path`.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._running: AsyncLLM | None = None
        self._version = 0
        self._asleep = False
        self._lost = ""  # why the engine holds no version of the weights, if so
        self._batches = asyncio.Lock()  # one at a time: another batch's rows would change this one's arithmetic
        self._pauses = asyncio.Lock()
        self._switches: dict[str, list[tuple[int, int]]] = {}  # sample -> (tokens it had, version from then on)
        self._requests = 0
        self._cores: list[Any] = []

    @property
    def version(self) -> int:
        return self._version

    def tokens_in_flight(self) -> list[int]:
        """Tokens so far of every sample that is being drawn."""
        return [state.detokenizer.num_output_tokens() for state in self._states()]

    async def start(self) -> None:
        """Loads model and tokenizer; takes seconds to minutes and sets this process's environment for vLLM.

        Raises EngineDied with vLLM's reason.
        """
        began = time.perf_counter()
        os.environ.update(engine_environment(self._spec))
        from vllm.v1.engine.async_llm import AsyncLLM

        from rollout.audio import FeatureCache
        from rollout.model.tokenizer import load_tokenizer, special_ids

        self._features = FeatureCache(self._spec.feature_dir)
        try:
            self._tokenizer = load_tokenizer(self._spec.model_path)
            self._special = special_ids(self._tokenizer)
            self._running = AsyncLLM.from_engine_args(engine_args(self._spec))
            self._cores = list(self._running.engine_core.resources.engine_manager.processes)
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineDied(f"no engine on {self._spec.model_path}: {reason(error)}") from error
        logger.info("engine on %s up in %.1f s", self._spec.model_path, time.perf_counter() - began)

    async def shutdown(self) -> None:
        """Ends the engine's processes. Safe to call twice."""
        llm, self._running = self._running, None
        if llm is not None:
            if llm.output_handler is not None:  # else it reports the end it is waiting for as a failure
                llm.output_handler.cancel()
            await asyncio.to_thread(llm.shutdown, SHUTDOWN_S)

    async def generate(
        self,
        prompts: Sequence[Prompt],
        specs: Sequence[SamplingSpec],
        ids: Sequence[str],
        clips: Mapping[str, np.ndarray] | None = None,
    ) -> list[list[Trajectory]]:
        """Draws `specs[j].samples` responses to each prompt; sample i of prompt j is trajectory `{ids[j]}/{i}`.

        Give each question a seed of its own: equal seeds mean equal noise. `clips`: waveforms [L] at 16 kHz by feature
        key, for an engine with the encoder inside; keys that are not in it are read from the feature folder.
        Raises RequestRefused for the first question refused, after the others are done; EngineDied.
        """
        outcomes: dict[int, Outcome] = {}
        async for position, outcome in self.stream(prompts, specs, ids, clips):
            outcomes[position] = outcome
        trajectories = []
        for position in range(len(prompts)):
            outcome = outcomes[position]
            if isinstance(outcome, RequestRefused):
                raise outcome
            trajectories.append(outcome)
        return trajectories

    async def stream(
        self,
        prompts: Sequence[Prompt],
        specs: Sequence[SamplingSpec],
        ids: Sequence[str],
        clips: Mapping[str, np.ndarray] | None = None,
    ) -> AsyncIterator[tuple[int, Outcome]]:
        """As `generate`, but (position, trajectories or refusal) as questions finish. Raises EngineDied."""
        if not len(prompts) == len(specs) == len(ids):
            raise ValueError(f"{len(prompts)} prompts, {len(specs)} sampling specs, {len(ids)} ids; give one of each")
        # greedy apart: a row without a random generator makes vLLM's CPU sampler ignore everybody's
        greedy = [j for j, spec in enumerate(specs) if spec.temperature == 0]
        sampled = [j for j, spec in enumerate(specs) if spec.temperature != 0]
        async with self._batches:
            self._need_weights()
            for positions in (greedy, sampled):
                if positions:
                    async for outcome in self._batch(positions, prompts, specs, ids, clips or {}):
                        yield outcome

    async def _batch(
        self,
        positions: Sequence[int],
        prompts: Sequence[Prompt],
        specs: Sequence[SamplingSpec],
        ids: Sequence[str],
        clips: Mapping[str, np.ndarray],
    ) -> AsyncIterator[tuple[int, Outcome]]:
        finished: asyncio.Queue[tuple[int, Outcome | EngineDied]] = asyncio.Queue()
        tasks: list[asyncio.Task[None]] = []

        async def follow(position: int, job: _Job) -> None:
            try:
                finished.put_nowait((position, await self._collect(job)))
            except (EngineDied, RequestRefused) as error:
                finished.put_nowait((position, error))

        try:
            with self._errors("generating"):
                async with self._paused() as llm:
                    await llm.reset_prefix_cache()
                    await llm.reset_encoder_cache()
                    for position in positions:
                        try:
                            job = await self._submit(prompts[position], specs[position], ids[position], clips)
                        except RequestRefused as refusal:
                            finished.put_nowait((position, refusal))
                        else:
                            tasks.append(asyncio.create_task(follow(position, job)))
            for _ in positions:
                position, outcome = await finished.get()
                if isinstance(outcome, EngineDied):
                    raise outcome
                yield position, outcome
        finally:
            for task in tasks:
                task.cancel()

    async def _submit(self, prompt: Prompt, spec: SamplingSpec, job_id: str, clips: Mapping[str, np.ndarray]) -> _Job:
        """Hands one question to vLLM, in order with those before and after it. Raises RequestRefused."""
        where = f"question {prompt.question_id!r}"
        longest = len(prompt.expanded_ids) + spec.max_new_tokens
        if longest > self._spec.max_model_len:
            raise RequestRefused(
                f"{where} needs {len(prompt.expanded_ids)} + {spec.max_new_tokens} tokens, the engine holds "
                f"{self._spec.max_model_len}; raise max_model_len or shorten the question"
            )
        rendered = self._render(where, prompt.compact_ids, prompt.feature_keys, clips)
        parts = [await self._request(where, rendered, self._sampling(spec, 1, spec.seed))]
        if spec.samples > 1:  # the features went with the first sample; these find them by uuid in the engine core
            rest = self._sampling(spec, spec.samples - 1, spec.seed + 1)
            parts.append(await self._request(where, _without_data(rendered), rest))
        return _Job(prompt, spec, job_id, self._version, tuple(parts))

    def _sampling(self, spec: SamplingSpec, count: int, seed: int) -> SamplingParams:
        """vLLM seeds child i of a request with n > 1 by seed + i, which is the contract of `SamplingSpec`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            n=count,
            temperature=spec.temperature,
            seed=seed,
            max_tokens=spec.max_new_tokens,
            stop_token_ids=[self._special.eot],
            logit_bias=dict.fromkeys(self._special.banned, BAN),
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _render(
        self, where: str, compact_ids: Sequence[int], keys: Sequence[str], clips: Mapping[str, np.ndarray]
    ) -> Any:
        """vLLM's engine input: ids with placeholders expanded, features or waveforms under their uuids."""
        from vllm.exceptions import VLLMClientError

        from rollout.audio import FeatureError

        request: Any = {"prompt_token_ids": list(compact_ids)}
        try:
            if keys:
                items = [clips[key] if key in clips else self._features.get(key) for key in keys]
                request |= {"multi_modal_data": {"audio": items}, "multi_modal_uuids": {"audio": list(keys)}}
            return self._llm.renderer.render_cmpl([request])[0]
        except (ValueError, FeatureError, VLLMClientError) as error:
            raise RequestRefused(f"{where}: {reason(error)}") from error

    async def _request(self, where: str, engine_input: Any, params: SamplingParams) -> Any:
        from vllm.exceptions import VLLMClientError

        self._requests += 1
        try:
            return await self._llm.add_request(f"{self._requests}", engine_input, params)
        except (ValueError, VLLMClientError) as error:
            # the processor cache believes the features sent; without this a later request would miss them
            await self._llm.reset_mm_cache()
            raise RequestRefused(f"{where}: {reason(error)}") from error

    async def _collect(self, job: _Job) -> list[Trajectory]:
        """Waits for a question's samples. Raises EngineDied, RequestRefused; aborts the rest when cancelled."""
        outputs: list[Any] = []
        try:
            with self._errors(f"generating for question {job.prompt.question_id!r}"):
                for part in job.parts:
                    outputs.append(await part.get())
        except asyncio.CancelledError:
            if self._running is not None:
                await self._running.abort([part.request_id for part in job.parts[len(outputs) :]], internal=True)
            raise
        expanded = tuple(outputs[0].prompt_token_ids or ())
        if expanded != job.prompt.expanded_ids:
            raise RequestRefused(
                f"question {job.prompt.question_id!r}: the engine expanded the prompt to {len(expanded)} ids, the "
                f"trainer expects {len(job.prompt.expanded_ids)}; build both with the same model folder"
            )
        completions = [
            (f"{output.request_id}/{completion.index}", completion)
            for output in outputs
            for completion in output.outputs
        ]
        return [self._trajectory(job, i, sample, done) for i, (sample, done) in enumerate(completions)]

    def _trajectory(self, job: _Job, number: int, sample: str, done: Any) -> Trajectory:
        if done.finish_reason not in ("stop", "length"):
            raise RequestRefused(
                f"question {job.prompt.question_id!r}: the engine gave up on sample {number} "
                f"({done.finish_reason}); generate it again"
            )
        ids = tuple(done.token_ids)
        versions = [job.version] * len(ids)
        for tokens, version in self._switches.pop(sample, ()):
            versions[tokens:] = [version] * (len(ids) - tokens)
        return Trajectory(
            id=f"{job.id}/{number}",
            question_id=job.prompt.question_id,
            sample=number,
            prompt_ids=job.prompt.expanded_ids,
            response_ids=ids,
            logprobs=tuple(done.logprobs.logprobs),
            versions=tuple(versions),
            feature_keys=job.prompt.feature_keys,
            finish_reason=FinishReason(done.finish_reason),
            text=self._tokenizer.decode(ids, skip_special_tokens=True),
        )

    async def swap(self, update: NewWeights, fetch: Fetch | None = None, number: int = 0) -> SwapReport:
        """New weights, between two tokens of whatever runs; what was cached under the old ones is dropped.

        fetch: bytes of a bucket from its `data`, where that is something else; number: of this engine among those that take a live
        update together. Raises WeightsRefused (old weights stay), WeightsLost
        (nothing can be generated until another swap) or EngineDied.
        """
        began = time.perf_counter()
        with self._errors(f"swapping to version {update.version}"):
            async with self._paused() as llm:
                receipts = await self._receive(llm, update, fetch, number)
                refusals = sorted({receipt.refusal for receipt in receipts if receipt.refusal})
                if refusals and not any(receipt.touched for receipt in receipts):
                    raise WeightsRefused(f"version {update.version}: {'; '.join(refusals)}")
                await llm.reset_prefix_cache(reset_running_requests=True)
                await llm.reset_encoder_cache()
                self._lost = f"version {update.version}: {'; '.join(refusals)}" if refusals else ""
                if self._lost:
                    raise WeightsLost(self._lost)
                self._version = update.version
                self._note_switch()
        loaded = sum(receipt.loaded_bytes for receipt in receipts)
        return SwapReport(update.version, receipts[0].checksum, time.perf_counter() - began, loaded)

    async def sleep(self) -> None:
        """Gives the GPU's memory to whoever shares it: weights go to the host, cached keys and values are dropped. Nothing on a CPU."""
        if not self._asleep:
            self._asleep = True
            with self._errors("falling asleep"):
                async with self._batches:
                    await self._llm.sleep(level=1)

    async def wake(self) -> None:
        """Takes the memory back. Nothing for an engine that is awake."""
        if self._asleep:
            with self._errors("waking"):
                await self._llm.wake_up()
            self._asleep = False

    async def _receive(self, llm: AsyncLLM, update: NewWeights, fetch: Fetch | None, number: int) -> list[Receipt]:
        """Brings an update into every worker of the engine; one receipt each."""
        if isinstance(update, SharedWeights):
            where = (update.journal, update.number, update.limit_s, update.only_changed)
            return [Receipt(*fields) for fields in await llm.collective_rpc("receive_weights_shared", args=where)]
        if isinstance(update, LiveWeights):
            first = 1 + number * self._spec.tensor_parallel
            live = (dataclasses.asdict(update), first)
            return [Receipt(*fields) for fields in await llm.collective_rpc("receive_weights_live", args=live)]
        manifests = [bucket.manifest.to_json() for bucket in update.buckets]
        wanted = await llm.collective_rpc("begin_weights", args=(manifests, update.checksum, update.only_changed))
        failure = ""
        for place in sorted(set().union(*wanted)):
            data = update.buckets[place].data
            try:
                data = data if fetch is None else await fetch(data)
            except WeightsRefused as refusal:
                failure = str(refusal)
                break
            await llm.collective_rpc("take_weights", args=(place, data))
        ends = await llm.collective_rpc("end_weights", args=(update.checksum, failure))
        return [Receipt(*fields) for fields in ends]

    def _states(self) -> Iterable[Any]:
        """vLLM's own record of every sample in flight; exact while the scheduler is paused."""
        return self._llm.output_processor.request_states.values()

    def _note_switch(self) -> None:
        """Remembers for every sample in flight how many tokens the old weights gave it."""
        for state in self._states():
            sample = f"{state.external_req_id}/{state.request_index}"
            tokens = state.detokenizer.num_output_tokens()
            self._switches.setdefault(sample, []).append((tokens, self._version))

    async def probe(self, sequences: Sequence[ProbeSequence]) -> list[list[float]]:
        """The engine's own log-probs of each sequence's response ids, under the weights it runs now.

        Raises RequestRefused, EngineDied.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        logprobs: list[list[float]] = []
        with self._errors("probing"):
            async with self._batches:
                self._need_weights()
                parts: list[Any] = []
                for number, sequence in enumerate(sequences):
                    where, total = f"probe {number}", len(sequence.expanded_ids) + len(sequence.response_ids)
                    if total >= self._spec.max_model_len:
                        raise RequestRefused(f"{where} has {total} tokens, the engine holds {self._spec.max_model_len}")
                    ids = (*sequence.compact_ids, *sequence.response_ids)
                    engine_input = self._render(where, ids, sequence.feature_keys, {})
                    parts.append(await self._request(where, engine_input, params))
                for sequence, part in zip(sequences, parts, strict=True):
                    output = await part.get()
                    if tuple(output.prompt_token_ids) != sequence.expanded_ids + sequence.response_ids:
                        raise RequestRefused("a probe's ids differ from what the engine expanded; rebuild its prompt")
                    positions = output.prompt_logprobs[len(sequence.expanded_ids) :]
                    logprobs.append([_only(position) for position in positions])
        return logprobs

    @property
    def _llm(self) -> AsyncLLM:
        if self._running is None:
            raise EngineDied("the engine is not running; call start() first")
        return self._running

    def _need_weights(self) -> None:
        if self._lost:
            raise EngineDied(f"the engine holds parts of two versions of the weights ({self._lost}); swap again")

    @asynccontextmanager
    async def _paused(self) -> AsyncIterator[AsyncLLM]:
        """The scheduler stands still; running samples keep their place."""
        llm = self._llm
        async with self._pauses:
            await llm.pause_generation(mode="keep", clear_cache=False)
            try:
                yield llm
            finally:
                if not llm.errored:
                    await llm.resume_generation()

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """What vLLM raises, as EngineDied with the cause; our own errors pass."""
        try:
            yield
        except (EngineDied, RequestRefused, WeightsRefused):
            raise
        except Exception as error:
            raise EngineDied(
                f"engine on {self._spec.model_path} died while {doing}: {reason(error)}{self._obituary()}"
            ) from error

    def _obituary(self) -> str:
        """How the engine core ended, if it did; its own last words are in this process's log."""
        ends = [f"pid {core.pid} ended with exit code {core.exitcode}" for core in self._cores if core.exitcode]
        return f" (engine core {', '.join(ends)}; -9 is a kill, often for want of memory)" if ends else ""


def _without_data(engine_input: Any) -> Any:
    """The same request for an engine core that holds the features already."""
    if "mm_kwargs" not in engine_input:
        return engine_input
    empty = {modality: [None] * len(items) for modality, items in engine_input["mm_kwargs"].items()}
    return {**engine_input, "mm_kwargs": empty}


def _only(position: Mapping[int, Any]) -> float:
    """The log-prob of the one token at a prompt position."""
    (entry,) = position.values()
    return float(entry.logprob)
