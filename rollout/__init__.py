"""Questions in, trajectories out: audio front end, model, prompts, engines, ledger.

Neighbours: `rewards`, `actor` and `orchestrator` import from here; nothing here imports from them.
Invariants: public names are handed on lazily, so that `import rollout` loads neither torch nor vLLM nor Ray.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "messages": [
            "AnswerKind",
            "AudioRef",
            "FinishReason",
            "ProbeSequence",
            "Prompt",
            "Question",
            "SamplingSpec",
            "SwapReport",
            "Trajectory",
            "Turn",
            "WeightUpdate",
        ],
        "audio": [
            "AudioError",
            "FeatureCache",
            "FeatureError",
            "FeatureRef",
            "FrozenEncoder",
            "load_audio",
        ],
        "prompts": ["PromptBuilder", "PromptError"],
        "model": [
            "BASE_DIR",
            "CheckpointError",
            "ModelError",
            "StepAudio2Config",
            "load_config",
            "load_tokenizer",
            "load_weights",
            "preset_config",
            "register_config",
            "resolve_model",
            "save_checkpoint",
            "special_ids",
            "trainable_parameters",
            "weights_checksum",
        ],
        "engine": ["Engine", "EngineDied", "EngineSpec"],
        "worker": ["RolloutWorker"],
        "pool": ["RolloutPool"],
        "ledger": ["Ledger", "LedgerError"],
        "logs": ["DriverLog", "LogFile", "log_to"],
        "place": ["Place"],
    },
)
