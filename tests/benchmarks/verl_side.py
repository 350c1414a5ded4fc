"""verl's reward path on the benchmark's answers, called as its trainers call it.

Two ways of verl 0.9: `RewardLoopManager.compute_rm_score` (what all its trainers call: Ray reward workers, the naive reward
manager in each) and the older serial `NaiveRewardManager` in the driver. Neighbours: `reward_throughput` times them;
`verl_compute_score` is the custom function both are given. Invariant: building the batch of token ids is outside the clock, since
a trainer has it; decoding it is inside, since verl's path begins there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from verl import DataProto

from rewards import Sample

PROMPT_TOKENS = 16
VOCABULARY = 4000
COMPUTE_SCORE = Path(__file__).with_name("verl_compute_score.py")


def tokenizer_in(folder: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokeniser made from answers like those that are scored; kept in the folder for verl to load."""
    from reward_answers import choice_samples

    place = folder / "tokenizer"
    if not place.exists():
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<pad>", "<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        made.train_from_iterator((sample.text for sample in choice_samples(2000, 30_000)), trainer)
        PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>").save_pretrained(place)
    return PreTrainedTokenizerFast.from_pretrained(place)


def batch_of(samples: Sequence[Sample], tokenizer: PreTrainedTokenizerFast) -> DataProto:
    """Prompts padded on the left, responses on the right, the question beside them, as verl's rollouts leave it."""
    encoded = tokenizer([sample.text for sample in samples])["input_ids"]
    responses = [[*ids, tokenizer.eos_token_id] for ids in encoded]
    longest = max(map(len, responses))
    response_ids = torch.full((len(samples), longest), tokenizer.pad_token_id)
    mask = torch.zeros((len(samples), PROMPT_TOKENS + longest), dtype=torch.long)
    mask[:, :PROMPT_TOKENS] = 1
    for i, ids in enumerate(responses):
        response_ids[i, : len(ids)] = torch.tensor(ids)
        mask[i, PROMPT_TOKENS : PROMPT_TOKENS + len(ids)] = 1
    prompt_ids = torch.full((len(samples), PROMPT_TOKENS), tokenizer.eos_token_id)
    return DataProto.from_dict(
        tensors={"prompts": prompt_ids, "responses": response_ids, "attention_mask": mask},
        non_tensors={
            "data_source": np.array(["benchmark"] * len(samples), dtype=object),
            "reward_model": np.array([{"ground_truth": s.reference, "style": "rule"} for s in samples], dtype=object),
            "extra_info": np.array([{"question": s.question} for s in samples], dtype=object),
        },
    )


class VerlWorkers:
    """`RewardLoopManager`: what verl's trainer calls for a batch."""

    def __init__(self, folder: Path, workers: int) -> None:
        from verl.experimental.reward_loop import RewardLoopManager

        self._tokenizer = tokenizer_in(folder)
        place = str(folder / "tokenizer")
        config: dict[str, Any] = {
            "actor_rollout_ref": {"model": {"path": place, "tokenizer_path": place}},
            "reward": {
                "num_workers": workers,
                "custom_reward_function": {"path": str(COMPUTE_SCORE), "name": "compute_score"},
                "reward_manager": {"source": "register", "name": "naive"},
                "reward_model": {"enable": False, "enable_resource_pool": False},
            },
        }
        self._manager = RewardLoopManager(OmegaConf.create(config))

    def prepare(self, samples: Sequence[Sample]) -> DataProto:
        return batch_of(samples, self._tokenizer)

    def score(self, batch: DataProto) -> list[float | None]:
        return self._manager.compute_rm_score(batch).batch["rm_scores"].sum(-1).tolist()


class VerlSerial:
    """`NaiveRewardManager`: one sample after the other in the driver."""

    def __init__(self, folder: Path) -> None:
        from verl.workers.reward_manager.naive import NaiveRewardManager
        from verl_compute_score import compute_score

        self._tokenizer = tokenizer_in(folder)
        self._manager = NaiveRewardManager(self._tokenizer, num_examine=0, compute_score=compute_score)

    def prepare(self, samples: Sequence[Sample]) -> DataProto:
        return batch_of(samples, self._tokenizer)

    def score(self, batch: DataProto) -> list[float | None]:
        rewards: Any = self._manager(batch)
        return rewards.sum(-1).tolist()
