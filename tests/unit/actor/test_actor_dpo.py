"""The preference loss against its formula, and the weights that stand for its gradient against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actor import losses
from actor.dpo import pair_terms
from actor.messages import PreferencePair
from actor.specs import DpoSpec

LOGPROB = st.floats(-400, 0)
SPECS = st.builds(
    DpoSpec,
    beta=st.floats(0.01, 1),
    label_smoothing=st.sampled_from([0.0, 0.1, 0.3]),
    sft_coef=st.sampled_from([0.0, 0.2]),
)


def formula(chosen: float, rejected: float, ref_chosen: float, ref_rejected: float, beta: float) -> float:
    """-log sigmoid(beta (log-ratio of the chosen - log-ratio of the rejected)), as the paper writes it."""
    return math.log1p(math.exp(-beta * ((chosen - ref_chosen) - (rejected - ref_rejected))))


@given(LOGPROB, LOGPROB, LOGPROB, LOGPROB, st.floats(0.01, 0.5))
def test_the_loss_is_the_papers(chosen: float, rejected: float, ref_c: float, ref_r: float, beta: float) -> None:
    values = [torch.tensor([value], dtype=torch.float64) for value in (chosen, rejected, ref_c, ref_r)]
    assert losses.dpo_loss(*values, beta).item() == pytest.approx(
        formula(chosen, rejected, ref_c, ref_r, beta), abs=1e-9
    )
    smoothed = losses.dpo_loss(*values, beta, label_smoothing=0.2).item()
    swapped = formula(rejected, chosen, ref_r, ref_c, beta)
    assert smoothed == pytest.approx(0.8 * formula(chosen, rejected, ref_c, ref_r, beta) + 0.2 * swapped, abs=1e-9)


def test_at_the_reference_the_loss_is_log_two_and_pulls_both_ways_with_half_of_beta() -> None:
    chosen_B, rejected_B = (torch.tensor([-3.0, -40.0], requires_grad=True) for _ in range(2))
    loss_B = losses.dpo_loss(chosen_B, rejected_B, chosen_B.detach(), rejected_B.detach(), 0.1)
    torch.testing.assert_close(loss_B, torch.full((2,), math.log(2)))
    loss_B.sum().backward()
    torch.testing.assert_close(chosen_B.grad, torch.full((2,), -0.05))
    torch.testing.assert_close(rejected_B.grad, torch.full((2,), 0.05))


def test_a_huge_margin_stays_finite() -> None:
    chosen_B = torch.tensor([-1e4, 0.0], requires_grad=True)
    loss_B = losses.dpo_loss(chosen_B, torch.tensor([0.0, -1e4]), torch.zeros(2), torch.zeros(2), 1.0)
    loss_B.sum().backward()
    assert loss_B.tolist() == [1e4, 0.0]
    assert chosen_B.grad is not None and chosen_B.grad.tolist() == [-1.0, 0.0]


@settings(deadline=None)
@given(
    SPECS,
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6), LOGPROB, LOGPROB), min_size=1, max_size=4),
    st.data(),
)
def test_weighted_log_probs_have_the_gradient_of_the_pair_loss(
    spec: DpoSpec, shapes: list[tuple[int, int, float, float]], data: st.DataObject
) -> None:
    """sum(weight x token log-prob), built from weights of any part of the pairs, against autograd through the whole loss."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    pairs = [
        PreferencePair(str(i), (1,), (2,) * chosen, (3,) * rejected, (), ref_chosen, ref_rejected)
        for i, (chosen, rejected, ref_chosen, ref_rejected) in enumerate(shapes)
    ]
    lengths = [length for chosen, rejected, _, _ in shapes for length in (chosen, rejected)]
    tokens = [(-5 * torch.rand(n, generator=generator, dtype=torch.float64)).requires_grad_() for n in lengths]
    sums = [values.sum() for values in tokens]
    whole = losses.dpo_loss(
        torch.stack(sums[::2]),
        torch.stack(sums[1::2]),
        torch.tensor([pair.reference_chosen for pair in pairs], dtype=torch.float64),
        torch.tensor([pair.reference_rejected for pair in pairs], dtype=torch.float64),
        spec.beta,
        label_smoothing=spec.label_smoothing,
    ).sum()
    whole = whole - spec.sft_coef * sum(values.mean() for values in tokens[::2])
    wanted = torch.autograd.grad(whole, tokens)
    cut = data.draw(st.integers(1, len(pairs)))
    for part in (range(cut), range(cut, len(pairs))):
        if not part:
            continue
        terms = pair_terms(spec, pairs, part, dict(enumerate(sums)))
        assert set(terms.weights) == {member for i in part for member in (2 * i, 2 * i + 1)}
        for member, weight in terms.weights.items():
            torch.testing.assert_close(torch.full_like(tokens[member], weight), wanted[member])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 0.0}, "beta must be above 0"),
        ({"label_smoothing": 0.5}, r"label_smoothing must lie in \[0, 0.5\)"),
        ({"sft_coef": -1.0}, "sft_coef must be at least 0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DpoSpec(**changes)
