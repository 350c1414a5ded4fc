"""Step-Audio 2 for vLLM 0.28, as an out-of-tree plugin (entry point `vllm.general_plugins`).

Neighbours: vLLM calls `register` in each of its processes; `rollout.engine` builds engines that rely on it. The modules
of `rollout.model` do the arithmetic; this package only speaks vLLM's interfaces.
Invariants: importing this package loads neither torch nor vLLM; registering twice is harmless.
"""

ARCHITECTURE = "StepAudio2ForCausalLM"
WORKER_EXTENSION = "rollout.model.vllm_plugin.weights.WeightReceiver"


def register() -> None:
    """Makes vLLM and transformers know the model type. Runs in the driver, the engine core and every worker."""
    from vllm import ModelRegistry

    from rollout.model.config import register_config

    register_config()
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"{__name__}.model:{ARCHITECTURE}")
