"""Batches without audio need neither the feature folder nor the adaptor, in any stage; mixed ones need both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from actor.testing import experiences, make_case, one_rank, ppo, preference_pairs, sft_examples, trainer_spec
from rollout.audio.features import FeatureError
from rollout.model.adaptor import Adaptor

pytestmark = pytest.mark.slow


class AdaptorUsed(Exception):
    """The adaptor ran."""


@pytest.mark.parametrize("freeze", [("adapter.",), ("model.embed_tokens.",)], ids=["frozen", "trained"])
def test_text_alone_never_reaches_the_audio_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, freeze: tuple[str, ...]
) -> None:
    torch.set_num_threads(1)
    case = make_case(tmp_path, tie_word_embeddings=False)
    batch = experiences(case, questions=4, samples=2, text_every=2)
    text = [item for item in batch if not item.feature_keys]

    def used(*_: Any) -> torch.Tensor:
        raise AdaptorUsed

    for name in ("forward", "forward_many"):
        monkeypatch.setattr(Adaptor, name, used)
    # There is no such folder: reading any clip would fail.
    spec = trainer_spec(replace(case, features=tmp_path / "no_features"), freeze=freeze, ppo=ppo(kl_coef=0.01))
    with one_rank(spec, tmp_path) as trainer:
        assert len(trainer.log_probs(text)) == len(text)
        trainer.sft_step(sft_examples(text))
        trainer.reset_optimizer("dpo")
        trainer.dpo_step(preference_pairs(text))
        trainer.reset_optimizer("ppo")
        trainer.ppo_update(text, 0)
        with pytest.raises(FeatureError):
            trainer.log_probs(batch)
        trainer._bank._cache.directory = case.features
        with pytest.raises(AdaptorUsed):
            trainer.log_probs(batch)
