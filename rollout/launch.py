"""What an engine is and how vLLM is told so: the spec, the process environment, vLLM's arguments.

Neighbours: `engine` starts with these; `worker` sets the environment before vLLM is imported.
Invariants: the environment is set before the first import of vLLM in the process; nothing here needs vLLM until
`engine_args` is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from rollout.model.vllm_plugin import WORKER_EXTENSION

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs

GIB = 1 << 30
KV_BLOCK_TOKENS = 32  # short prompts fill some blocks, so the samples of a question share them; the CPU kernel's unit
STEP_TOKENS = 8192  # tokens one step may hold: a whole batch of short prompts is prefilled in a step or two
PROCESSOR_CACHE_GIB = 0.5  # features the engine core keeps, so that a clip crosses the process border once


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine is.

    model_path: Hugging Face folder; dtype: of weights and activations; max_model_len: tokens of prompt and response;
    max_num_seqs: samples that run at once; kv_cache_gib: CPU only (a GPU takes gpu_memory_utilization of its memory);
    max_audio_chunks: most audio chunks in one prompt; with_encoder: False for engines that get features only;
    feature_dir: where `FeatureCache` wrote them; threads: CPU threads of one engine; device: "cpu" or "cuda";
    colocated: shares its GPU with a trainer rank, and can sleep.
    """

    model_path: str
    dtype: str
    max_model_len: int
    max_num_seqs: int
    kv_cache_gib: int
    seed: int
    max_audio_chunks: int
    with_encoder: bool
    feature_dir: str
    threads: int
    device: str
    gpu_memory_utilization: float
    tensor_parallel: int
    colocated: bool = False

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"


def engine_environment(spec: EngineSpec) -> dict[str, str]:
    """Environment variables for the process that imports vLLM; its engine core inherits them."""
    environment = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if spec.on_cpu:
        environment |= {
            "VLLM_TARGET_DEVICE": "cpu",
            # one process for engine core and worker; with "1" vLLM's CPU platform would put the worker in a third
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(spec.threads),
            # two small functions of vLLM's sampler would be compiled with g++, which a bare machine lacks; eager they
            # are as fast at these sizes, and the first batch does not wait for a compiler
            "TORCHDYNAMO_DISABLE": "1",
        }
    return environment


def engine_args(spec: EngineSpec) -> AsyncEngineArgs:
    """vLLM's arguments. Raises ValueError for a spec vLLM cannot run."""
    from vllm import AsyncEngineArgs

    if spec.device not in ("cpu", "cuda"):
        raise ValueError(f"device {spec.device!r} is unknown; engines run on 'cpu' or 'cuda'")
    return AsyncEngineArgs(
        model=spec.model_path,
        dtype=cast(Any, spec.dtype),
        seed=spec.seed,
        max_model_len=spec.max_model_len,
        max_num_seqs=spec.max_num_seqs,
        max_num_batched_tokens=max(STEP_TOKENS, spec.max_model_len),
        # a seeded request whose prefill is cut in chunks kills vLLM 0.28's CPU runner
        enable_chunked_prefill=False,
        enable_prefix_caching=True,
        block_size=KV_BLOCK_TOKENS,
        logprobs_mode="raw_logprobs",
        enforce_eager=spec.on_cpu,
        kv_cache_memory_bytes=spec.kv_cache_gib * GIB if spec.on_cpu else None,
        gpu_memory_utilization=spec.gpu_memory_utilization,
        tensor_parallel_size=spec.tensor_parallel,
        distributed_executor_backend="uni" if spec.on_cpu and spec.tensor_parallel == 1 else None,
        limit_mm_per_prompt={"audio": spec.max_audio_chunks},
        mm_processor_cache_gb=PROCESSOR_CACHE_GIB,
        hf_overrides={"with_encoder": spec.with_encoder},
        worker_extension_cls=WORKER_EXTENSION,
        enable_sleep_mode=spec.colocated and not spec.on_cpu,
        disable_log_stats=True,
        use_tqdm_on_load=False,
    )
