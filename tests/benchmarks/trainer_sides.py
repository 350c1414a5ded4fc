"""One trainer a process for `trainer.py`: ours, plain transformers and torch, TRL; each runs a step when it is told to.

Every side starts from the same folder's weights, sees the same sequences and reports the loss after each step, so that the parent can
tell whether all do the same work. Plain torch is written as one would write it by hand to be fast: the head runs on response positions
alone, the last token is no input, the on-policy update takes old log-probs and values from its own pass, micro-batches are padded to
their longest.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy

from actor.advantages import estimate
from actor.messages import Experience
from actor.testing import Case, one_rank, optim, ppo, sft_examples, trainer_spec
from rollout.model.reference import StepAudio2ForCausalLM

LEARNING_RATE, CLIP_GRAD, BETAS = 1e-3, 1.0, (0.9, 0.95)
NOT_TRAINED = -100


@dataclass(frozen=True, slots=True)
class Work:
    """What one process measures. batch: of every step; rows: a micro-batch of ours; sequences: a padded micro-batch."""

    side: Literal["ours", "torch", "trl"]
    step: Literal["sft", "ppo"]
    case: Case
    batch: tuple[Experience, ...]
    rows: int
    sequences: int


class Pace:
    """The parent's say over a process: a step a word, its CPU seconds and loss in return."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._began = 0.0

    def go(self) -> bool:
        """Waits for the parent; False: no more steps."""
        asked = self._connection.recv()
        self._began = time.process_time()
        return bool(asked)

    def done(self, loss: float) -> None:
        self._connection.send((time.process_time() - self._began, loss))


def serve(work: Work, connection: Connection) -> None:
    """A process of its own, until the parent has enough."""
    torch.set_num_threads(1)
    SIDES[work.side](work, Pace(connection))


def _ours(work: Work, pace: Pace) -> None:
    rates = optim(lr=LEARNING_RATE, clip_grad=CLIP_GRAD, beta1=BETAS[0], beta2=BETAS[1])
    spec = trainer_spec(
        work.case, micro_batch_tokens=work.rows, sft_optim=rates, actor_optim=rates, critic_optim=rates, ppo=ppo()
    )
    batch = list(work.batch)
    examples = sft_examples(batch)
    with tempfile.TemporaryDirectory() as folder, one_rank(spec, Path(folder)) as trainer:
        trainer.reset_optimizer(work.step)
        while pace.go():
            if work.step == "sft":
                pace.done(trainer.sft_step(examples).metrics["loss"])
            else:
                pace.done(trainer.ppo_update(batch, 0).metrics["value_loss"])


@dataclass(frozen=True, slots=True)
class _Padded:
    """Right-padded sequences [B, L]; predicts_T: flattened positions whose output predicts the T response tokens."""

    members: tuple[int, ...]
    ids_BL: torch.Tensor
    mask_BL: torch.Tensor
    predicts_T: torch.Tensor
    targets_T: torch.Tensor
    lengths: tuple[int, ...]


def _padded(batch: Sequence[Experience], at_once: int) -> Iterator[_Padded]:
    for first in range(0, len(batch), at_once):
        items = batch[first : first + at_once]
        width = max(len(item.prompt_ids) + len(item.response_ids) for item in items) - 1
        ids, mask = torch.zeros(len(items), width, dtype=torch.long), torch.zeros(len(items), width, dtype=torch.long)
        predicts, targets = [], []
        for row, item in enumerate(items):
            sequence = (*item.prompt_ids, *item.response_ids[:-1])
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
            predicts.append(row * width + torch.arange(len(item.prompt_ids) - 1, len(sequence)))
            targets.append(torch.tensor(item.response_ids))
        lengths = tuple(len(item.response_ids) for item in items)
        members = tuple(range(first, first + len(items)))
        yield _Padded(members, ids, mask, torch.cat(predicts), torch.cat(targets), lengths)


class _Plain:
    """transformers' decoder (head_size outputs a position) with torch's AdamW."""

    def __init__(self, reference: StepAudio2ForCausalLM, head: torch.nn.Module) -> None:
        self.decoder, self.head = reference.model, head
        self.parameters = list({id(p): p for p in (*self.decoder.parameters(), *head.parameters())}.values())
        self.optimizer = torch.optim.AdamW(self.parameters, LEARNING_RATE, BETAS, weight_decay=0.0)

    def outputs(self, padded: _Padded) -> torch.Tensor:
        """[T, head size]."""
        hidden_BLH = self.decoder(
            input_ids=padded.ids_BL, attention_mask=padded.mask_BL, use_cache=False
        ).last_hidden_state
        return self.head(hidden_BLH.flatten(0, 1).index_select(0, padded.predicts_T))

    def step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_GRAD)
        self.optimizer.step()
        self.optimizer.zero_grad()


def _torch(work: Work, pace: Pace) -> None:
    actor = StepAudio2ForCausalLM.from_pretrained(work.case.model, with_encoder=False).train()
    policy = _Plain(actor, actor.lm_head)
    if work.step == "sft":
        while pace.go():
            pace.done(_sft_step(policy, work))
        return
    twin = StepAudio2ForCausalLM.from_pretrained(work.case.model, with_encoder=False).train()
    value_head = torch.nn.Linear(twin.config.text_config.hidden_size, 1, bias=False)
    torch.nn.init.zeros_(value_head.weight)
    critic = _Plain(twin, value_head)
    while pace.go():
        pace.done(_ppo_update(policy, critic, work))


def _sft_step(policy: _Plain, work: Work) -> float:
    tokens = sum(len(item.response_ids) for item in work.batch)
    loss = 0.0
    for padded in _padded(work.batch, work.sequences):
        part = cross_entropy(policy.outputs(padded), padded.targets_T, reduction="sum") / tokens
        part.backward()
        loss += part.item()
    policy.step()
    return loss


def _ppo_update(policy: _Plain, critic: _Plain, work: Work) -> float:
    """On-policy, one epoch: value regression to the rewards, then the clipped objective on whitened advantages."""
    spec = ppo()
    rewards = [item.reward for item in work.batch]
    lengths = [len(item.response_ids) for item in work.batch]
    tokens = sum(lengths)
    values: list[torch.Tensor] = []
    value_loss = 0.0
    for padded in _padded(work.batch, work.sequences):
        values_T = critic.outputs(padded)[:, 0]
        returns_T = torch.tensor([rewards[m] for m in padded.members]).repeat_interleave(torch.tensor(padded.lengths))
        part = 0.5 * (values_T - returns_T).square().sum() / tokens
        part.backward()
        value_loss += part.item()
        values += values_T.detach().split(padded.lengths)
    critic.step()
    advantages, _ = estimate(spec, rewards, values, lengths, [item.group for item in work.batch])
    for padded in _padded(work.batch, work.sequences):
        log_softmax_TV = torch.log_softmax(policy.outputs(padded), -1)
        logprobs_T = log_softmax_TV.gather(1, padded.targets_T[:, None])[:, 0]
        with torch.no_grad():
            entropy_T = -(log_softmax_TV.exp() * log_softmax_TV).sum(-1)
            assert entropy_T.isfinite().all()
        advantages_T = torch.cat([advantages[member] for member in padded.members])
        ratio_T = (logprobs_T - logprobs_T.detach()).exp()
        clipped_T = ratio_T.clamp(1 - spec.clip_low, 1 + spec.clip_high)
        (-torch.minimum(ratio_T * advantages_T, clipped_T * advantages_T).sum() / tokens).backward()
    policy.step()
    return value_loss


def _trl(work: Work, pace: Pace) -> None:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from rollout import load_tokenizer

    class Paced(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._next(control)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                pace.done(logs["loss"])
                self._next(control)

        def _next(self, control: Any) -> None:
            control.should_training_stop = not pace.go()

    reference = StepAudio2ForCausalLM.from_pretrained(work.case.model, with_encoder=False)
    from transformers import Qwen2ForCausalLM

    model = Qwen2ForCausalLM(reference.config.text_config)
    model.model.load_state_dict(reference.model.state_dict())
    model.lm_head.load_state_dict(reference.lm_head.state_dict())
    rows = [
        {
            "input_ids": [*item.prompt_ids, *item.response_ids],
            "completion_mask": [0] * len(item.prompt_ids) + [1] * len(item.response_ids),
        }
        for item in work.batch
    ]
    config = SFTConfig(
        output_dir=str(work.case.model.parent / "trl"),
        per_device_train_batch_size=work.sequences,
        gradient_accumulation_steps=-(-len(rows) // work.sequences),
        num_train_epochs=10**6,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        weight_decay=0.0,
        max_grad_norm=CLIP_GRAD,
        max_length=None,
        completion_only_loss=True,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataset_num_proc=None,
    )
    trainer = SFTTrainer(
        model, config, train_dataset=Dataset.from_list(rows), processing_class=load_tokenizer(work.case.model)
    )
    trainer.add_callback(Paced())
    trainer.train()


SIDES: dict[str, Callable[[Work, Pace], None]] = {"ours": _ours, "torch": _torch, "trl": _trl}
