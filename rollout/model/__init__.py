"""The architecture in plain torch and transformers: config, tokenizer, encoder, adaptor, reference, presets.

Neighbours: `rollout.audio` runs the encoder, `rollout.model.vllm_plugin` and `actor.megatron` build on these modules.
Invariants: parameter names and config fields are those of the public Step-Audio 2 checkpoints; no vLLM import here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "adaptor": ["Adaptor"],
        "checkpoint": ["CheckpointError", "FolderWeights", "load_weights", "save_checkpoint"],
        "checksum": ["weights_checksum"],
        "config": ["StepAudio2Config", "StepAudio2EncoderConfig", "load_config", "register_config"],
        "encoder": ["AudioEncoder", "log_mel"],
        "lengths": ["AudioLengths", "lengths_from_mel", "lengths_from_samples", "max_samples", "patch_count"],
        "presets": ["preset_config"],
        "reference": ["StepAudio2ForCausalLM", "random_checkpoint", "trainable_parameters"],
        "resolve": ["BASE_DIR", "ModelError", "resolve_model"],
        "streamed": ["TensorSpec", "beside", "write_model", "write_streamed"],
        "tokenizer": ["load_tokenizer", "special_ids", "train_tokenizer"],
    },
)
