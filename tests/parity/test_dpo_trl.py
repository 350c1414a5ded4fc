"""Our DPO steps against TRL's own DPOTrainer: the same Qwen2 decoder, the same text pairs (ids from TRL's tokenisation), three
steps of the whole batch.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from actor.messages import PreferencePair
from actor.publishing import payload_tensors
from actor.specs import DpoSpec
from actor.testing import Case, make_case, one_rank, optim, trainer_spec
from rollout import load_config, load_tokenizer, load_weights

pytestmark = pytest.mark.slow

STEPS = 3
BETA = 0.2
EPS = 1e-6  # Adam divides gradients smaller than this by their own size, rounding included
TEXTS = [
    {"prompt": "Which note is higher?", "chosen": " The second note is higher.", "rejected": " I cannot hear it."},
    {
        "prompt": "Which note is higher?",
        "chosen": " It is the first.",
        "rejected": " Which of the notes do you mean by that?",
    },
    {"prompt": "How many tones", "chosen": " are there? Three.", "rejected": " there are is not known to me."},
    {"prompt": "Say yes", "chosen": " yes", "rejected": " no"},
]


def trl_run(case: Case, folder: Path) -> tuple[list[dict[str, float]], dict[str, torch.Tensor], list[PreferencePair]]:
    """TRL's log of each step, its weights after the last one, and the pairs as token ids."""
    from datasets import Dataset
    from transformers import Qwen2ForCausalLM
    from trl import DPOConfig, DPOTrainer

    model = Qwen2ForCausalLM(load_config(case.model).text_config)
    stored = {name: tensor for name, tensor in load_weights(case.model).items() if name.startswith("model.")}
    model.load_state_dict(stored, strict=False)
    model.tie_weights()
    args = DPOConfig(
        output_dir=str(folder),
        beta=BETA,
        max_steps=STEPS,
        per_device_train_batch_size=len(TEXTS),
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        adam_epsilon=EPS,
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        model=model,
        ref_model=copy.deepcopy(model),
        args=args,
        train_dataset=Dataset.from_list(TEXTS),
        processing_class=load_tokenizer(case.model),
    )
    rows = list(trainer.train_dataset)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    pairs = [
        PreferencePair(str(i), *(tuple(row[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")), ())
        for i, row in enumerate(rows)
    ]
    return log, trainer.model.state_dict(), pairs


def test_three_steps_are_those_of_trls_trainer(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    case = make_case(tmp_path, vocab_size=317)
    log, weights, pairs = trl_run(case, tmp_path / "trl")
    assert len(log) == STEPS
    settings: dict[str, Any] = {"actor_optim": optim(eps=EPS)}
    with one_rank(trainer_spec(case, **settings), tmp_path) as trainer:
        trainer.reset_optimizer("dpo", dpo=DpoSpec(BETA))
        references = trainer.reference_log_probs(pairs)
        pairs = [
            replace(pair, reference_chosen=chosen, reference_rejected=rejected)
            for pair, (chosen, rejected) in zip(pairs, references, strict=True)
        ]
        ours = [trainer.dpo_step(pairs).metrics for _ in range(STEPS)]
        trained = payload_tensors(trainer.weights(1))
    names = {
        "loss": "loss",
        "margin": "rewards/margins",
        "chosen_reward": "rewards/chosen",
        "rejected_reward": "rewards/rejected",
        "chosen_logprob": "logps/chosen",
        "rejected_logprob": "logps/rejected",
        "grad_norm": "grad_norm",
        "lr": "learning_rate",
    }
    for step, (report, theirs) in enumerate(zip(ours, log, strict=True)):
        for name, key in names.items():
            assert report[name] == pytest.approx(theirs[key], rel=1e-5, abs=1e-4), (step, name)
    assert ours[-1]["accuracy"] == log[-1]["rewards/accuracies"]
    furthest = max(float((trained[name] - weights[name]).abs().max()) for name in trained if name in weights)
    assert sum(name in weights for name in trained) > 20
    assert furthest <= 1e-5
