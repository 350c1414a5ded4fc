"""Held-out scores of the base: direct answers, and sampled or greedy reasoning after fine-tuning.

Neighbours: `clips` gives the clips, `rollout.prompts` the ids; `build` writes the scores into the manifest.
Invariants: a direct answer follows an empty think block and counts when greedy decoding gives the reference reply and
then ends; a reasoned one is parsed as the reward functions do; an unreadable answer is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from orchestrator.base_model.clips import Clip, ClipSource
from orchestrator.base_model.exercises import ExerciseWriter
from orchestrator.base_model.network import PseudoAudio, reply_logits
from orchestrator.base_model.trees import TreePacker
from orchestrator.datasets.acoustic_qa.questions import TASKS
from rewards import split_response, true_share
from rollout.messages import Question
from rollout.model.reference import StepAudio2ForCausalLM

BATCH = 64
MAX_NEW_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Item:
    """A question about a clip."""

    clip: Clip
    question: Question


@dataclass(frozen=True, slots=True)
class Score:
    """accuracy with its standard error over n questions; true_perceptions: mean share of true statements; formed: share
    of responses with a closed think block (both 1.0 for direct answers); by_task: accuracy and n a task."""

    accuracy: float
    stderr: float
    n: int
    by_task: Mapping[str, tuple[float, int]]
    true_perceptions: float = 1.0
    formed: float = 1.0

    @classmethod
    def of(cls, tasks: Sequence[str], correct: Sequence[float], true: float = 1.0, formed: float = 1.0) -> Score:
        values = np.asarray(correct, dtype=np.float64)
        names = np.asarray(tasks)
        by_task = {
            task: (float(values[names == task].mean()), int((names == task).sum()))
            for task in TASKS
            if (names == task).any()
        }
        error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
        return cls(float(values.mean()), error, len(values), by_task, true, formed)

    def line(self) -> str:
        tasks = " ".join(f"{task} {accuracy:.2f}" for task, (accuracy, _) in self.by_task.items())
        return (
            f"{self.accuracy:.3f}+-{self.stderr:.3f} (n {self.n}) true {self.true_perceptions:.3f} "
            f"formed {self.formed:.3f}: {tasks}"
        )


def balanced_items(source: ClipSource, clips: Sequence[Clip], per_task: int) -> list[Item]:
    """The first `per_task` questions of each task over the clips, in order."""
    taken = dict.fromkeys(TASKS, 0)
    items = []
    for clip in clips:
        for question in source.questions(clip.scene, 0):
            if taken[question.task] < per_task:
                taken[question.task] += 1
                items.append(Item(clip, question))
    return items


@torch.no_grad()
def audio_of(
    model: StepAudio2ForCausalLM, clips: Sequence[Clip], pseudo: PseudoAudio | None = None, noise: float = 0.0
) -> list[Tensor]:
    """Adaptor output [patches, H] of each clip, or its stand-in when `pseudo` is given."""
    device = model.lm_head.weight.device
    if pseudo is not None:
        vectors = pseudo.heard([clip.labels_TF for clip in clips], noise, np.random.default_rng(0))
    else:
        features = [torch.from_numpy(np.asarray(clip.features, dtype=np.float32)).to(device) for clip in clips]
        vectors = model.adapter.forward_many(features)
    return list(vectors.split([clip.frames for clip in clips]))


@torch.no_grad()
def direct_score(
    model: StepAudio2ForCausalLM,
    exercises: ExerciseWriter,
    packer: TreePacker,
    items: Sequence[Item],
    *,
    pseudo: PseudoAudio | None = None,
    noise: float = 0.0,
) -> Score:
    """Accuracy of the reply after an empty think block, greedy."""
    model.eval()
    tasks: list[str] = []
    correct: list[float] = []
    for start in range(0, len(items), BATCH):
        part = items[start : start + BATCH]
        audio = audio_of(model, [item.clip for item in part], pseudo, noise)
        asked = [exercises.answering(item.question, direct=True, think=False) for item in part]
        batch = packer.pack([(item.clip.frames, [exercise]) for item, exercise in zip(part, asked, strict=True)])
        logits, targets = reply_logits(model, batch, torch.cat([audio[i] for i in batch.order]))
        hits = (logits.argmax(-1) == targets).tolist()
        place = 0
        for index in batch.order:
            reply = asked[index].replies_ids[0]
            begin = place + len(exercises.empty_think_ids)
            place += len(reply)
            tasks.append(part[index].question.task)
            correct.append(float(all(hits[begin:place])))
    return Score.of(tasks, correct)


@torch.no_grad()
def generate(
    model: StepAudio2ForCausalLM,
    prompts: Sequence[tuple[Sequence[int], Tensor]],
    *,
    temperature: float,
    end_id: int,
    banned: Sequence[int],
    seed: int,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[list[int]]:
    """Responses to (expanded prompt ids, audio vectors [patches, H]); temperature 0 is greedy. The end id is included."""
    model.eval()
    device = model.lm_head.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    embedded = []
    for ids, audio in prompts:
        row = model.model.embed_tokens(torch.tensor(ids, device=device))
        row[torch.tensor(ids, device=device) == model.audio_patch_id] = audio
        embedded.append(row)
    width, count = max(len(row) for row in embedded), len(embedded)
    inputs = torch.zeros(count, width, embedded[0].shape[-1], device=device)
    mask = torch.zeros(count, width, dtype=torch.long, device=device)
    for b, row in enumerate(embedded):
        inputs[b, width - len(row) :] = row
        mask[b, width - len(row) :] = 1
    cache = DynamicCache()
    places = (mask.cumsum(1) - 1).clamp_min(0)
    responses: list[list[int]] = [[] for _ in range(count)]
    open_rows = torch.ones(count, dtype=torch.bool, device=device)
    for _ in range(max_new_tokens):
        hidden = model.model(
            inputs_embeds=inputs, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        logits = model.lm_head(hidden).float()
        logits[:, list(banned)] = -torch.inf
        if temperature > 0:
            chosen = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)[:, 0]
        else:
            chosen = logits.argmax(-1)
        for b in torch.nonzero(open_rows)[:, 0].tolist():
            responses[b].append(int(chosen[b]))
        open_rows &= chosen != end_id
        if not bool(open_rows.any()):
            break
        inputs = model.model.embed_tokens(chosen)[:, None]
        mask = torch.cat([mask, mask.new_ones(count, 1)], 1)
        places = places[:, -1:] + 1
    return responses


def think_score(
    model: StepAudio2ForCausalLM,
    exercises: ExerciseWriter,
    items: Sequence[Item],
    *,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
) -> Score:
    """Accuracy of full responses; the standard error is over questions, each the mean of its samples."""
    builder = exercises.builder
    prompts, audio = [], []
    for start in range(0, len(items), BATCH):
        part = items[start : start + BATCH]
        audio += audio_of(model, [item.clip for item in part])
    for item, vectors in zip(items, audio, strict=True):
        ids = exercises.prompt_ids(item.question, item.clip.frames)
        prompts += [(ids, vectors)] * samples
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i][0]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), 2 * BATCH):
        part_order = order[start : start + 2 * BATCH]
        found = generate(
            model,
            [prompts[i] for i in part_order],
            temperature=temperature,
            end_id=builder.special.eot,
            banned=builder.special.banned,
            seed=seed + start,
        )
        for i, response in zip(part_order, found, strict=True):
            texts[i] = builder.decode(response)
    correct, trues, formed = [], [], []
    for number, item in enumerate(items):
        hits = []
        for text in texts[number * samples : (number + 1) * samples]:
            reasoning, reply, well_formed = split_response(text)
            hits.append(float(well_formed and reply.strip() == item.question.answer))
            formed.append(float(well_formed and bool(reasoning.strip())))
            true, stated = true_share(reasoning, item.question.truth, item.question.task)
            trues.append(true / stated if stated else 0.0)
        correct.append(float(np.mean(hits)))
    return Score.of([item.question.task for item in items], correct, float(np.mean(trues)), float(np.mean(formed)))
