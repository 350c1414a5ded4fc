"""Plain-torch training of the reference model, one whole sequence at a time: the side the Megatron trainer is held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from actor.publishing import payload_tensors
from actor.testing import Case
from rollout import FeatureCache
from rollout.model.reference import StepAudio2ForCausalLM


@dataclass(frozen=True)
class Step:
    loss: float
    grad_norm: float


class TorchTrainer:
    """AdamW with clipping at 1.0 over everything but the parameters under `freeze`."""

    def __init__(
        self, case: Case, lr: float = 1e-3, eps: float = 1e-8, freeze: tuple[str, ...] = ("adapter.",)
    ) -> None:
        self.model = StepAudio2ForCausalLM.from_pretrained(case.model, with_encoder=False)
        self._cache = FeatureCache(case.features)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not name.startswith(freeze))
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=lr, betas=(0.9, 0.95), eps=eps, weight_decay=0.0)

    def log_probs(self, prompt: tuple[int, ...], response: tuple[int, ...], keys: tuple[str, ...]) -> torch.Tensor:
        """[R], with gradient."""
        features = [torch.from_numpy(self._cache.get(key)) for key in keys]
        logits = self.model(torch.tensor([[*prompt, *response]]), features)[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]

    def step(self, loss: Callable[[TorchTrainer], torch.Tensor]) -> Step:
        value = loss(self)
        self._optimizer.zero_grad()
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimizer.step()
        return Step(value.item(), norm.item())

    def furthest(self, trainer: Any) -> float:
        """Largest difference of a weight from `trainer`'s."""
        ours = payload_tensors(trainer.weights(1))
        state = self.model.state_dict()
        return max(float((ours[name] - state[name]).abs().max()) for name in ours)
