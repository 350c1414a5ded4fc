"""Actor and critic of one rank: log-probs, values, SFT, PPO and DPO steps, weights out, checkpoints.

Neighbours: `actor.worker` is the Ray shell around it; `actor.planning` packs, `actor.learner` runs, `actor.losses` and
`actor.advantages` say what is optimised; `actor.megatron` holds the models.
Invariants: all ranks call the same methods with the same lists, in the same order; the same batch on the same weights gives
the same bits; a failed call leaves the weights as they were or kills the rank, never half an update.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actor import losses
from actor.audio import AudioBank
from actor.dpo import PreferenceUpdate, reference_log_probs
from actor.learner import Learner, Loss, forward
from actor.megatron import checkpoint, weights
from actor.megatron.batch import MicroBatch, TokenSequence
from actor.megatron.model import AudioGPT, TokenOutputs, head_dim, rotary_base, transformer_config
from actor.megatron.parallel import World
from actor.messages import Experience, PreferencePair, SftExample, UpdateReport
from actor.planning import Planner, Step, token_sequence
from actor.ppo import BatchRefused, PolicyUpdate
from actor.publish import weights_payload
from actor.specs import DpoSpec, OptimSpec, PPOSpec, Stage, StageSettings, TrainerSpec
from rollout import (
    ProbeSequence,
    WeightUpdate,
    load_config,
    load_tokenizer,
    load_weights,
    save_checkpoint,
    special_ids,
)

log = logging.getLogger(__name__)

META_FILE = "trainer.json"
REFERENCE = "reference"  # folder of a checkpoint, there only with a KL penalty
WEIGHT_FILE = ".safetensors"  # in the name of weight files and of the index over their shards


class TrainerError(RuntimeError):
    """A call the trainer cannot serve in its present state; the message says which call comes first."""


class Trainer:
    """One rank's models. Starts in stage "sft" with the weights of `spec.model_path`."""

    def __init__(self, spec: TrainerSpec, world: World) -> None:
        self.spec = spec
        self.world = world
        self.settings = StageSettings("sft")
        self.ppo = spec.ppo
        self._config = load_config(spec.model_path)
        self._dtype = getattr(torch, spec.dtype)
        self._frozen_adapter = weights.adapter_is_frozen(spec.freeze)
        model = self._build(critic=False)
        weights.load_tensors(model, _trained_weights(spec.model_path))
        weights.freeze(model, spec.freeze)
        self.actor = Learner(model, self._dtype)
        self.critic: Learner | None = None
        self.reference: AudioGPT | None = None
        self._bank = AudioBank(
            spec.feature_dir,
            self._config,
            frozen=model.adapter if self._frozen_adapter else None,
            dtype=self._dtype,
            device=world.device,
        )
        self.planner = Planner(
            world,
            self._bank,
            budget=spec.micro_batch_tokens,
            audio_patch_id=special_ids(load_tokenizer(spec.model_path)).audio_patch,
            head_dim=head_dim(self._config),
            rotary_base=rotary_base(self._config),
        )
        self.reset_optimizer("sft")

    @property
    def stage(self) -> Stage:
        return self.settings.stage

    def reset_optimizer(
        self,
        stage: Stage,
        optim: OptimSpec | None = None,
        critic_optim: OptimSpec | None = None,
        ppo: PPOSpec | None = None,
        dpo: DpoSpec | None = None,
    ) -> None:
        """Begin a stage: fresh optimizer and schedule; "ppo" also takes a critic (the actor's weights, value head zero) and,
        with a KL penalty, a reference model from the actor as it is now.

        What is given replaces the trainer's own settings for this stage, checkpoints included. Raises TrainerError for a
        stage there is not and for settings it does not use or cannot work with.
        """
        try:
            settings = StageSettings(stage, optim, critic_optim, ppo, dpo)
            chosen_ppo = settings.ppo_spec(self.spec)
        except ValueError as error:
            raise TrainerError(str(error)) from error
        self._begin(settings, chosen_ppo)

    def _begin(self, settings: StageSettings, ppo: PPOSpec) -> None:
        self.settings, self.ppo = settings, ppo
        self.critic = self.reference = None
        self.actor.reset_optimizer(settings.actor_optim(self.spec))
        if settings.stage != "ppo":
            return
        state = self.actor.model.state_dict()
        if self.spec.critic:
            model = self._build(critic=True)
            self._copy(state, model)
            weights.freeze(model, self.spec.freeze)
            self.critic = Learner(model, self._dtype)
            self.critic.reset_optimizer(settings.critic_optim or self.spec.critic_optim)
        if ppo.kl_coef > 0:
            self.reference = self._build(critic=False).requires_grad_(False)
            self._copy(state, self.reference)

    def log_probs(self, items: Sequence[Experience | SftExample | ProbeSequence]) -> list[np.ndarray]:
        """Natural log-probs [R] of each response, from the actor; float32."""
        step = self._whole(items)
        return [values.numpy() for values in self.gather(self.run_forward(self.actor.ddp, step, _logprobs), len(items))]

    def values(self, items: Sequence[Experience | SftExample]) -> list[np.ndarray]:
        """Value [R] of the state before each response token, from the critic; float32. Raises TrainerError without one."""
        if self.critic is None:
            raise TrainerError('there is no critic; call reset_optimizer("ppo") on a trainer with critic=True')
        step = self._whole(items)
        return [values.numpy() for values in self.gather(self.run_forward(self.critic.ddp, step, _values), len(items))]

    def sft_step(self, examples: Sequence[SftExample]) -> UpdateReport:
        """One optimizer step of cross entropy over the response tokens of `examples`.

        The loss is a mean over the response tokens of the whole step (all micro-batches and ranks), each with its example's
        weight: sum(weight x loss) / sum(weight). Raises BatchRefused for weights below 0, not finite or all 0.
        """
        self._need_stage("sft")
        weight_sum = math.fsum(example.weight * len(example.response_ids) for example in examples)
        if not all(0 <= example.weight < math.inf for example in examples) or weight_sum <= 0:
            raise BatchRefused("SFT weights must be finite, at least 0 and not all 0")
        step = self._whole(examples)
        # Megatron divides by the step's tokens; with weights of 1 this factor is exactly 1.
        factor = step.tokens / weight_sum
        weight = {index: example.weight * factor for index, example in enumerate(examples)}

        def loss(output: TokenOutputs, batch: MicroBatch) -> Loss:
            total = (losses.sft_loss(output.logprobs_T) * batch.spread(weight)).sum()
            return Loss(total, {"loss": total.detach().clone(), "entropy": output.entropies_T.detach().sum()})

        result = self.actor.update(step.batches, loss)
        sums = self.world.sum_data_parallel({"loss": 0.0, "entropy": 0.0} | result.sums)
        return UpdateReport(
            metrics={
                "loss": sums["loss"] / step.tokens,
                "entropy": sums["entropy"] / step.tokens,
                "grad_norm": result.grad_norm,
                "lr": result.lr,
                "response_tokens": float(step.tokens),
            }
        )

    def ppo_update(self, experiences: Sequence[Experience], rng_seed: int) -> UpdateReport:
        """One policy update over `experiences`; `rng_seed` orders the minibatches. See `actor.ppo`."""
        self._need_stage("ppo")
        return PolicyUpdate(self, experiences, rng_seed).run()

    def dpo_step(self, pairs: Sequence[PreferencePair]) -> UpdateReport:
        """One optimizer step of preference training over `pairs`, which carry their reference log-probs. See `actor.dpo`."""
        self._need_stage("dpo")
        return PreferenceUpdate(self, self.settings.dpo or self.spec.dpo, pairs).run()

    def reference_log_probs(self, pairs: Sequence[PreferencePair]) -> list[tuple[float, float]]:
        """Summed log-probs (chosen, rejected) of each pair, in nats, under the actor as it is now; call before the first
        step and keep them with the pairs."""
        return reference_log_probs(self, pairs)

    def weights(self, version: int) -> WeightUpdate | None:
        """The actor's weights for the engines, encoder left out; None on every rank but 0 (all ranks call)."""
        exported = weights.export_tensors(self.actor.model)
        return weights_payload(exported, version) if self.world.rank == 0 else None

    def export(self, directory: str) -> None:
        """Rank 0 writes a Hugging Face folder with public names, encoder and tokenizer included (all ranks call)."""
        exported = weights.export_tensors(self.actor.model)
        if self.world.rank == 0:
            encoder = load_weights(self.spec.model_path, weights.ENCODER_PREFIX)
            target = save_checkpoint(directory, self._config, encoder | exported)
            for path in Path(self.spec.model_path).iterdir():
                if path.is_file() and WEIGHT_FILE not in path.name and not (target / path.name).exists():
                    shutil.copyfile(path, target / path.name)

    def save(self, directory: str) -> None:
        """Models, optimizers, schedules and random state into `directory`, written by all ranks. Raises CheckpointError."""
        root = Path(directory)
        for name, learner in self._learners():
            checkpoint.save(root / name, learner.model, learner.optimizer, self.world)
        if self.reference is not None:
            checkpoint.save(root / REFERENCE, self.reference, None, self.world)
        if self.world.rank == 0:
            (root / META_FILE).write_text(json.dumps(self.settings.to_json() | {"format": checkpoint.FORMAT}))

    def load(self, directory: str, settings: StageSettings | None = None) -> None:
        """Continue from what `save` wrote, in this or another layout.

        settings: what the stage uses from here on, all of it (a None in it: the trainer's own); None: what the checkpoint
        stores. Moments, step counts and the place in the schedule are the checkpoint's; rates, decay, PPO and DPO settings
        are not. A KL penalty without a stored reference takes the loaded actor as its reference, with a warning. Raises
        CheckpointError for damage, TrainerError for settings of another stage or that this trainer cannot work with.
        """
        root = Path(directory)
        try:
            stored = StageSettings.from_json(json.loads((root / META_FILE).read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise checkpoint.CheckpointError(f"{root} holds no complete trainer checkpoint: {error}") from error
        chosen = settings or stored
        if chosen.stage != stored.stage:
            raise TrainerError(
                f"{root} was saved in stage {stored.stage!r} and cannot go on in stage {chosen.stage!r}; load it with its own "
                "settings, then call reset_optimizer"
            )
        try:
            ppo = chosen.ppo_spec(self.spec)
        except ValueError as error:
            raise TrainerError(f"{root} cannot be continued by this trainer: {error}") from error
        self._begin(chosen, ppo)
        for name, learner in self._learners():
            checkpoint.load(root / name, learner.model, learner.optimizer, self.world)
        if self.reference is not None:
            self._load_reference(root / REFERENCE, self.reference)
        self._bank.clear()

    def _load_reference(self, folder: Path, reference: AudioGPT) -> None:
        if folder.is_dir():
            checkpoint.load(folder, reference, None, self.world)
            return
        log.warning(
            "%s has no reference model, but kl_coef is %g: the actor just loaded becomes the reference, so the KL penalty pulls "
            "towards the policy of this checkpoint, not of the stage's start",
            folder.parent,
            self.ppo.kl_coef,
        )
        self._copy(self.actor.model.state_dict(), reference)

    def load_weights_only(self, directory: str) -> None:
        """The actor's weights of what `save` wrote, in this or another layout; the present stage begins anew with them (fresh
        optimizer, schedule, critic, reference), and random state stays. Raises CheckpointError."""
        checkpoint.load(Path(directory) / "actor", self.actor.model, None, self.world, with_random=False)
        self._bank.clear()
        self._begin(self.settings, self.ppo)

    def run_forward(
        self, model: torch.nn.Module, step: Step, read: Callable[[Any], torch.Tensor]
    ) -> dict[int, torch.Tensor]:
        """`read(output)` [T] of each micro-batch, cut into one tensor [R] a sequence of this rank."""
        parts = forward(model, step.batches, lambda output, batch: batch.scatter(read(output)) if batch.counts else {})
        return {member: values for part in parts for member, values in part.items()}

    def gather(self, mine: dict[int, torch.Tensor], count: int) -> list[torch.Tensor]:
        """One tensor a sequence out of the shares of all data-parallel ranks."""
        everyone: dict[int, torch.Tensor] = {}
        for part in self.world.gather_data_parallel(mine):
            everyone.update(part)
        return [everyone[index] for index in range(count)]

    def _need_stage(self, stage: Stage) -> None:
        if self.stage != stage:
            raise TrainerError(f'the trainer is in stage {self.stage!r}; call reset_optimizer("{stage}") first')

    def _whole(self, items: Sequence[Experience | SftExample | ProbeSequence]) -> Step:
        sequences: list[TokenSequence] = [token_sequence(item) for item in items]
        return self.planner.steps(sequences)[0]

    def _learners(self) -> list[tuple[str, Learner]]:
        return [("actor", self.actor)] + ([("critic", self.critic)] if self.critic is not None else [])

    def _build(self, critic: bool) -> AudioGPT:
        """A model with undefined weights; a second one needs no adaptor of its own while the adaptor is frozen."""
        megatron = transformer_config(self._config, self._dtype, self.world.tensor_size)
        with_adapter = not self._frozen_adapter or not hasattr(self, "actor")
        model = AudioGPT(self._config, megatron, critic, with_adapter).to(self.world.device)
        weights.mark_split(model)
        return model

    @staticmethod
    def _copy(state: dict[str, Any], model: AudioGPT) -> None:
        """Weights of another model of this trainer; a critic keeps its own value head."""
        own = model.state_dict()
        kept = {weights.HEAD} if model.critic else set()
        model.load_state_dict({name: value if name in kept else state[name] for name, value in own.items()})


def _trained_weights(model_path: str) -> dict[str, torch.Tensor]:
    """What the trainer holds of a folder: adaptor and decoder, not the encoder."""
    prefixes = (weights.ADAPTER_PREFIX, "model.", "lm_head.")
    return {name: tensor for prefix in prefixes for name, tensor in load_weights(model_path, prefix).items()}


def _logprobs(output: TokenOutputs) -> torch.Tensor:
    return output.logprobs_T


def _values(output: torch.Tensor) -> torch.Tensor:
    return output
