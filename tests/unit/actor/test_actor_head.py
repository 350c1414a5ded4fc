"""Log-probs and entropies in chunks: the numbers and gradients of a plain softmax, whatever the chunk sizes."""

from __future__ import annotations

import pytest
import torch

from actor.layout import logits_at_once
from actor.megatron.head import HeadChunks, VocabularyPart, token_outputs

TOKENS, HIDDEN, ROWS, VOCABULARY = 23, 16, 48, 45  # three rows of the head matrix are padding


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden_TH = torch.randn(TOKENS, HIDDEN, generator=generator, dtype=torch.float64).float()
    weight_VH = 2 * torch.randn(ROWS, HIDDEN, generator=generator)
    return hidden_TH, weight_VH, torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)


def run(inputs: tuple[torch.Tensor, ...], chunks: HeadChunks | None, entropy: bool) -> list[torch.Tensor]:
    """Log-probs, entropies and the gradients of hidden states and head; chunks None: plain torch."""
    hidden_TH, weight_VH, targets_T = inputs
    hidden_TH, weight_VH = hidden_TH.clone().requires_grad_(), weight_VH.clone().requires_grad_()
    if chunks is None:
        log_p_TV = (hidden_TH @ weight_VH[:VOCABULARY].T).log_softmax(1)
        logprobs_T = log_p_TV.gather(1, targets_T[:, None])[:, 0]
        entropies_T = -(log_p_TV.exp() * log_p_TV).sum(1)
    else:
        part = VocabularyPart(0, VOCABULARY, None)
        logprobs_T, entropies_T = token_outputs(hidden_TH, weight_VH, targets_T, part, chunks, entropy)
    weights_T = torch.linspace(-1, 2, TOKENS)
    loss = (weights_T * logprobs_T).sum() + ((weights_T**2 * entropies_T).sum() if entropy else 0)
    loss.backward()
    assert hidden_TH.grad is not None and weight_VH.grad is not None
    return [logprobs_T.detach(), entropies_T.detach(), hidden_TH.grad, weight_VH.grad]


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("chunks", [HeadChunks(64, 64), HeadChunks(5, 64), HeadChunks(64, 7), HeadChunks(4, 11)])
def test_chunks_change_nothing(inputs: tuple[torch.Tensor, ...], chunks: HeadChunks, entropy: bool) -> None:
    for ours, plain in zip(run(inputs, chunks, entropy), run(inputs, None, entropy), strict=True):
        torch.testing.assert_close(ours, plain, atol=2e-5, rtol=1e-5)


def test_logits_are_never_whole(inputs: tuple[torch.Tensor, ...]) -> None:
    """No tensor of tokens x vocabulary is saved for the backward pass when one chunk does not hold it."""
    saved: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run(inputs, HeadChunks(4, 11), entropy=True)
    assert saved and max(saved) < TOKENS * VOCABULARY


def test_large_logits_do_not_overflow() -> None:
    hidden_TH, weight_VH = torch.full((1, 2), 300.0), torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    part = VocabularyPart(0, 3, None)
    out = token_outputs(hidden_TH, weight_VH, torch.tensor([0]), part, HeadChunks(1, 1), with_entropy_grad=False)
    assert out.logprobs_T.tolist() == [0.0] and out.entropies_T.tolist() == [0.0]


def test_a_small_vocabulary_takes_more_rows_in_the_same_memory() -> None:
    assert logits_at_once(1024, 16384, 600) == (1024 * 16384 // 600, 600)
    assert logits_at_once(1024, 16384, 158_720) == (1024, 16384)
