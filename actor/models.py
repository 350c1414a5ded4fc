"""The models of one rank: built for a layout, filled from a folder or from another model of any layout.

Neighbours: `actor.trainer` and `actor.critic_trainer` ask for policy, critic and reference; `actor.megatron` holds what they are
made of; `actor.side` runs the trained ones.
Invariants: Megatron's process groups are those of the world a model is built for; a frozen adaptor is kept once a rank and
shared, so a critic or reference brings one only to ranks that have none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch

from actor.audio import AudioBank
from actor.balance import Cost
from actor.kernels import Kernels, KernelsError, kernel_facts, resolve_kernels
from actor.learner import Learner
from actor.megatron import weights
from actor.megatron.head import HeadChunks
from actor.megatron.lora import Lora, draw
from actor.megatron.model import AudioGPT, head_dim, rotary_base, transformer_config
from actor.megatron.parallel import World
from actor.megatron.parts import layer_parts
from actor.planning import Planner
from actor.side import Side
from actor.specs import TrainerSpec
from rollout import FolderWeights, StepAudio2Config, load_config, load_tokenizer, special_ids

log = logging.getLogger(__name__)


class Models:
    """Builds the models of one trainer process. world: any of those that its ranks form, all of which call. Raises KernelsError on
    every rank for kernels that one of their machines cannot run, or that differ between them."""

    def __init__(self, spec: TrainerSpec, world: World) -> None:
        self.spec = spec
        self.kernels = _agreed_kernels(spec, world)
        self.config: StepAudio2Config = load_config(spec.model_path)
        self.dtype: torch.dtype = getattr(torch, spec.dtype)
        self.adapter_is_frozen = weights.adapter_is_frozen(spec.freeze)
        self._audio_patch_id = special_ids(load_tokenizer(spec.model_path)).audio_patch

    def policy(self, world: World) -> AudioGPT:
        """With the weights of `spec.model_path`, of which each rank reads its own part."""
        with world.active():
            model = self._build(world, critic=False, with_adapter=True)
            weights.load_tensors(model, FolderWeights(self.spec.model_path))
            weights.freeze(model, self.spec.freeze)
        return model

    def critic(self, world: World, tensors: Iterable[tuple[str, torch.Tensor]], with_adapter: bool) -> AudioGPT:
        """With weights by checkpoint name; the value head starts at zero. with_adapter: this rank has no adaptor to share."""
        with world.active():
            model = self._build(world, critic=True, with_adapter=with_adapter or not self.adapter_is_frozen)
            weights.load_stream(model, tensors)
            weights.freeze(model, self.spec.freeze)
        return model

    def reference(self, world: World, policy: AudioGPT) -> AudioGPT:
        """A frozen copy of `policy`, of the same layout, without optimizer."""
        with world.active():
            model = self._build(world, critic=False, with_adapter=not self.adapter_is_frozen).requires_grad_(False)
        self.copy_policy(policy, model)
        return model

    def copy_policy(self, policy: AudioGPT, reference: AudioGPT) -> None:
        """The weights that `policy` has now into a model of `reference`."""
        state = policy.state_dict()
        reference.load_state_dict({name: state[name] for name in reference.state_dict()})

    def side(self, model: AudioGPT, world: World, bank: AudioBank) -> Side:
        """`model` as something to train. bank: where its clips come from."""
        planner = Planner(
            world,
            bank,
            budget=self.spec.micro_batch_tokens,
            audio_patch_id=self._audio_patch_id,
            head_dim=head_dim(self.config),
            rotary_base=rotary_base(self.config),
            cost=self._cost(model.critic),
        )
        learner = Learner(model, self.dtype, world, offload=self.spec.offload_optimizer, fused=self.kernels.engine)
        return Side(learner, planner, world)

    def bank(self, model: AudioGPT, world: World) -> AudioBank:
        """Clips for the first pipeline stage of `world`, through the adaptor of `model` when it is frozen."""
        return AudioBank(
            self.spec.feature_dir,
            self.config,
            frozen=model.adapter if self.adapter_is_frozen else None,
            dtype=self.dtype,
            device=world.device,
        )

    def _cost(self, critic: bool) -> Cost:
        text, size = self.config.text_config, head_dim(self.config)
        return Cost.of_decoder(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            attention=text.num_attention_heads * size,
            key_value=text.num_key_value_heads * size,
            ffn=text.intermediate_size,
            vocabulary=1 if critic else text.vocab_size,
        )

    def _build(self, world: World, critic: bool, with_adapter: bool) -> AudioGPT:
        megatron = transformer_config(self.config, self.spec, world.layout, self.kernels)
        chunks = HeadChunks(self.spec.head_chunk_rows, self.spec.head_chunk_vocab)
        kept = not (critic and self.adapter_is_frozen)
        low_rank = Lora(self.spec.lora_rank, self.spec.lora_alpha) if self.spec.lora_rank else None
        model = AudioGPT(
            self.config,
            megatron,
            critic,
            chunks,
            parts=layer_parts(self.kernels),
            low_rank=low_rank,
            with_adapter=with_adapter,
            adapter_is_kept=kept,
        ).to(world.device)
        if low_rank is not None:
            draw(model.language_model.decoder, model.first_layer, self.spec.seed)
        weights.mark_split(model)
        return model


def _agreed_kernels(spec: TrainerSpec, world: World) -> Kernels:
    own: Kernels | KernelsError
    try:
        own = resolve_kernels(spec.kernels, spec.device, kernel_facts(spec.device))
    except KernelsError as error:
        own = error
    everyone = world.gather(own)
    for rank, found in enumerate(everyone):
        if isinstance(found, KernelsError):
            raise KernelsError(f"rank {rank}: {found}") from None
    chosen = [found for found in everyone if isinstance(found, Kernels)]
    other = next((rank for rank, found in enumerate(chosen) if found != chosen[0]), None)
    if other is not None:
        raise KernelsError(
            f"ranks would compute with different kernels: rank 0 with {chosen[0]}, rank {other} with {chosen[other]}; install the same "
            "packages on all machines, or set kernels=torch"
        )
    if world.rank == 0:
        log.info("trainer kernels: %s", chosen[0])
    return chosen[0]
