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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from actor import losses
from actor.dpo import PreferenceUpdate, reference_log_probs
from actor.kernels import Kernels
from actor.learner import Learner, Loss
from actor.megatron import checkpoint, weights
from actor.megatron.batch import MicroBatch
from actor.megatron.head import TokenOutputs
from actor.megatron.model import AudioGPT
from actor.megatron.parallel import World, another_layout
from actor.messages import Experience, PreferencePair, SftExample, UpdateReport
from actor.models import Models
from actor.planning import Planner, Step, token_sequence
from actor.ppo import ActorUpdate, BatchRefused, CriticUpdate, check, merged
from actor.publishing import Meeting, Outlet, Published, PublishRefused, PublishSpec, whole_update
from actor.seal import SEAL, read_seal
from actor.side import Side
from actor.specs import DpoSpec, OptimSpec, PPOSpec, Stage, StageSettings, TrainerSpec
from actor.stored_stage import META_FILE, TrainerError, described, stored_settings
from rollout import ProbeSequence, WeightUpdate, write_model

log = logging.getLogger(__name__)

ACTOR, CRITIC = "actor", "critic"  # folders of a checkpoint
REFERENCE = "reference"  # likewise, there only with a KL penalty


class Trainer:
    """One rank's models. Starts in stage "sft" with the weights of `spec.model_path`.

    world: of the actor. The critic shares it, or has the same ranks in another layout (`spec.critic_layout`), or lives on ranks
    of its own (`spec.critic_apart`, see `actor.critic_trainer`), whose old values then come with `ppo_update`.
    """

    def __init__(self, spec: TrainerSpec, world: World) -> None:
        self.spec = spec
        self.world = world
        self.settings = StageSettings("sft")
        self._saving: checkpoint.Saving | None = None
        self.ppo = spec.ppo
        self._models = Models(spec, world)
        model = self._models.policy(world)
        self._bank = self._models.bank(model, world)
        self.actor_side = self._models.side(model, world, self._bank)
        self.critic_side: Side | None = None
        self._critic_world = world if spec.critic_apart else another_layout(world, spec.of_critic)
        self.reference: AudioGPT | None = None
        self._outlet = Outlet(world.rank, world.device)
        self.reset_optimizer("sft")

    @property
    def actor(self) -> Learner:
        return self.actor_side.learner

    @property
    def critic(self) -> Learner | None:
        return None if self.critic_side is None else self.critic_side.learner

    @property
    def planner(self) -> Planner:
        """Of the actor's batches."""
        return self.actor_side.planner

    @property
    def kernels(self) -> Kernels:
        """What the layers run on."""
        return self._models.kernels

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
        self.critic_side = self.reference = None
        self.actor.reset_optimizer(settings.actor_optim(self.spec))
        if settings.stage == "ppo":
            self._begin_critic()
            if ppo.kl_coef > 0:
                self.reference = self._models.reference(self.world, self.actor.model)

    def _begin_critic(self) -> None:
        """From the actor as it is now."""
        if not self.spec.critic or self.spec.critic_apart:
            return
        with self.world.active():
            stream = weights.export_stream(self.actor.model)
        shared = self._critic_world == self.world or self.actor.model.adapter is not None
        model = self._models.critic(self._critic_world, stream, with_adapter=not shared)
        bank = self._bank if shared else self._models.bank(model, self._critic_world)
        self.critic_side = self._models.side(model, self._critic_world, bank)
        self.critic_side.learner.reset_optimizer(self.settings.critic_optim or self.spec.critic_optim)

    def log_probs(self, items: Sequence[Experience | SftExample | ProbeSequence]) -> list[np.ndarray]:
        """Natural log-probs [R] of each response, from the actor; float32."""
        step = self._whole(items)
        return [values.numpy() for values in self.actor_side.run(step, lambda output: output.logprobs_T)]

    def values(self, items: Sequence[Experience | SftExample]) -> list[np.ndarray]:
        """Value [R] of the state before each response token, from the critic; float32. Raises TrainerError without one."""
        if self.critic_side is None:
            raise TrainerError('there is no critic; call reset_optimizer("ppo") on a trainer with critic=True')
        step = self.critic_side.whole([token_sequence(item) for item in items])
        return [values.numpy() for values in self.critic_side.run(step, lambda output: output)]

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

    def ppo_update(
        self, experiences: Sequence[Experience], rng_seed: int, old_values: Sequence[np.ndarray] | None = None
    ) -> UpdateReport:
        """One policy update over `experiences`; `rng_seed` orders the minibatches; old_values: of a critic that lives apart. See
        `actor.ppo`."""
        self._need_stage("ppo")
        check(experiences)
        if self.spec.critic_apart and old_values is None:
            raise TrainerError("the critic lives on other ranks; give the values that it finds for these experiences")
        actor = ActorUpdate(self.actor_side, self.ppo, experiences, rng_seed, reference=self.reference)
        values = None if old_values is None else [torch.from_numpy(item) for item in old_values]
        reports = []
        if self.critic_side is not None:
            plan = actor.plan if self.critic_side.world is self.world else None
            critic = CriticUpdate(self.critic_side, self.ppo, experiences, rng_seed, plan)
            reports.append(critic.run())
            values = critic.old_values
        return merged(*reports, actor.run(values))

    def dpo_step(self, pairs: Sequence[PreferencePair]) -> UpdateReport:
        """One optimizer step of preference training over `pairs`, which carry their reference log-probs. See `actor.dpo`."""
        self._need_stage("dpo")
        return PreferenceUpdate(self, self.settings.dpo or self.spec.dpo, pairs).run()

    def reference_log_probs(self, pairs: Sequence[PreferencePair]) -> list[tuple[float, float]]:
        """Summed log-probs (chosen, rejected) of each pair, in nats, under the actor as it is now; call before the first
        step and keep them with the pairs."""
        return reference_log_probs(self, pairs)

    def weights(self, version: int) -> WeightUpdate | None:
        """The actor's weights in one message, encoder left out; None on every rank but 0 (all ranks call)."""
        stream = weights.export_stream(self.actor.model)
        if self.world.rank == 0:
            return whole_update(version, stream)
        for _ in stream:
            pass
        return None

    def meet(self, spec: PublishSpec, host: str, receivers: int) -> Meeting:
        """Where engines of `receivers` workers meet this rank 0 for a live transport."""
        return self._outlet.meet(spec, host, receivers)

    def prepare_publish(self, spec: PublishSpec) -> PublishRefused | None:
        """Before engines wait for shared memory that rank 0 writes (it alone is called)."""
        return self._outlet.prepare(spec)

    def publish(
        self, number: int, spec: PublishSpec, meeting: Meeting | None = None
    ) -> Published | PublishRefused | None:
        """The actor's weights towards the engines, one tensor at a time; None on ranks that only help (all ranks call).

        number: of the publish, growing. A refusal is returned, since the trainer is none the worse for it.
        """
        return self._outlet.publish(number, spec, weights.export_stream(self.actor.model), meeting)

    def confirm(self, number: int) -> None:
        """Every engine runs what publish `number` brought (rank 0 alone is called)."""
        self._outlet.confirm(number)

    def close(self) -> None:
        """Give back what was published."""
        self._outlet.close()

    def export(self, directory: str) -> None:
        """Rank 0 writes a Hugging Face folder with public names, encoder and tokenizer included, in place of what is there; one
        tensor at a time (all ranks call)."""
        model = self.actor.model
        stream = weights.export_stream(model)
        if self.world.rank == 0:
            write_model(Path(directory), self.spec.model_path, weights.export_specs(model), stream)
            return
        for _ in stream:  # which puts each tensor together with rank 0
            pass

    def save(self, directory: str) -> None:
        """Models, optimizers, schedules and random state into `directory`, written by all ranks. Raises CheckpointError."""
        self.begin_save(directory, background=False)
        self.finish_save()

    def begin_save(self, directory: str, background: bool) -> None:
        """The first half of `save`; background: training may go on while this rank's share is written from host memory.
        Raises CheckpointError, TrainerError while another checkpoint is unfinished."""
        if self._saving is not None:
            raise TrainerError(f"{self._saving.directory} is not finished; call finish_save before another checkpoint")
        parts = self._parts()
        if self.reference is not None:
            parts.append(checkpoint.Part(REFERENCE, self.reference, None, self.world))
        self._saving = checkpoint.Saving(
            Path(directory),
            parts,
            self.world,
            texts={META_FILE: json.dumps(self.settings.to_json())},
            about=described(self.spec) | {"stage": self.stage, "layout": str(self.spec.layout)},
            whole=True,
            background=background,
        )

    def save_written(self) -> bool:
        """Whether `finish_save` has nothing to wait for on this rank; True without an unfinished checkpoint."""
        return self._saving is None or self._saving.written

    def finish_save(self) -> None:
        """Seal what `begin_save` began, once all ranks have written (all call); nothing without one. Raises CheckpointError."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.finish()

    def verify(self, directory: str) -> None:
        """All that `load` would read is whole (all ranks call). Raises CheckpointError naming what is torn, missing or changed."""
        root = Path(directory)
        checkpoint.verify(root, self.world)
        stage = stored_settings(root, None, self.spec)[0].stage
        critic = stage == "ppo" and self.spec.critic and not self.spec.critic_apart
        if critic and f"{CRITIC}/{SEAL}" not in read_seal(root).files:  # it lived apart and has sealed its own folder
            checkpoint.verify(root / CRITIC, self.world)

    def load(self, directory: str, settings: StageSettings | None = None) -> StageSettings:
        """Continue from what `save` wrote, in this or another layout; returns the settings of the stage that goes on.

        settings: what the stage uses from here on, all of it (a None in it: the trainer's own); None: what the checkpoint
        stores. Moments, step counts and the place in the schedule are the checkpoint's; rates, decay, PPO and DPO settings
        are not. A KL penalty without a stored reference takes the loaded actor as its reference, with a warning. Raises
        CheckpointError for damage, TrainerError for settings of another stage or that this trainer cannot work with.
        """
        root = Path(directory)
        self.verify(directory)
        self._begin(*stored_settings(root, settings, self.spec))
        for part in self._parts():
            checkpoint.load(root / part.name, part)
        if self.reference is not None:
            self._load_reference(root / REFERENCE, self.reference)
        self._bank.clear()
        return self.settings

    def _load_reference(self, folder: Path, reference: AudioGPT) -> None:
        if folder.is_dir():
            checkpoint.load(folder, checkpoint.Part(REFERENCE, reference, None, self.world), with_random=False)
            return
        log.warning(
            "%s has no reference model, but kl_coef is %g: the actor just loaded becomes the reference, so the KL penalty pulls "
            "towards the policy of this checkpoint, not of the stage's start",
            folder.parent,
            self.ppo.kl_coef,
        )
        self._models.copy_policy(self.actor.model, reference)

    def load_weights_only(self, directory: str) -> None:
        """The actor's weights of what `save` wrote, in this or another layout; the present stage begins anew with them (fresh
        optimizer, schedule, critic, reference), and random state stays. Raises CheckpointError."""
        folder = Path(directory) / ACTOR
        checkpoint.verify(folder, self.world)
        checkpoint.load(folder, checkpoint.Part(ACTOR, self.actor.model, None, self.world), with_random=False)
        self._bank.clear()
        self._begin(self.settings, self.ppo)

    def _need_stage(self, stage: Stage) -> None:
        if self.stage != stage:
            raise TrainerError(f'the trainer is in stage {self.stage!r}; call reset_optimizer("{stage}") first')

    def _whole(self, items: Sequence[Experience | SftExample | ProbeSequence]) -> Step:
        return self.actor_side.whole([token_sequence(item) for item in items])

    def _parts(self) -> list[checkpoint.Part]:
        """What is trained here, each in a folder of its own."""
        learners = [(ACTOR, self.actor)] + ([(CRITIC, self.critic)] if self.critic is not None else [])
        return [checkpoint.Part(name, one.model, one.optimizer, one.world) for name, one in learners]
