"""Verdicts in, weights out: advantages, losses, packing, and the actor and critic on Megatron-core.

Neighbours: `orchestrator` drives it through `TrainerGroup`; it reads messages of `rollout` only.
Invariants: public names are handed on lazily, so that `import actor` loads neither torch nor Megatron nor Ray.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "conversion": ["Actor", "export_adapter", "export_merged", "import_folder"],
        "megatron.weights": ["WeightsError"],
        "kernels": [
            "ENGINE_VERSIONS",
            "KERNEL_CHOICES",
            "Facts",
            "Kernels",
            "KernelsError",
            "engine_version",
            "kernel_facts",
            "resolve_kernels",
        ],
        "layout": ["Layout", "LayoutError", "VOCAB_MULTIPLE", "logits_at_once"],
        "messages": ["Experience", "PreferencePair", "SftExample", "UpdateReport"],
        "specs": ["STEP_SLICE_NUMBERS", "DpoSpec", "OptimSpec", "PPOSpec", "StageSettings", "TrainerSpec"],
        "deaths": ["TrainerDied"],
        "group": ["TrainerGroup"],
        "heartbeat": ["Failure", "WatchLimits"],
        "publishing": ["Meeting", "PublishRefused", "PublishSpec", "Published", "Transport", "payload_tensors"],
        "seal": [
            "SEAL",
            "CheckpointError",
            "Seal",
            "check",
            "parse_seal",
            "read_seal",
            "seal_of",
            "sync_folder",
            "write_seal",
        ],
    },
)
