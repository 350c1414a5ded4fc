"""AdamW in plain torch as Apex's FusedAdam keeps it: one step counter a group, bounded temporaries, moments on the device or in the
machine's memory (Loshchilov and Hutter 2019).

Neighbours: `actor.megatron.optimizer` gives these to Megatron's distributed optimizer where no fused Adam is used.
Invariants: a step goes slice by slice, and neither the slices' size nor where the moments lie changes a bit of the result; between
updates an offloaded optimizer holds nothing on the device but the weights themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from actor.megatron.host_memory import HostMemory
from actor.specs import STEP_SLICE_NUMBERS


class GroupStepAdam(torch.optim.Optimizer):
    """AdamW with one step counter a parameter group. slice_numbers: of parameters stepped at once."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
        slice_numbers: int = STEP_SLICE_NUMBERS,
        **_: Any,
    ) -> None:
        if not adam_w_mode:
            raise ValueError(f"{type(self).__name__} decouples weight decay; adam_w_mode=False is not supported")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "bias_correction": True}
        super().__init__(params, defaults)
        self._slice_numbers = slice_numbers

    def start_all_moments(self) -> None:
        """Zero moments and step 0 for every parameter now, so that a checkpoint before the first update is complete."""
        for group in self.param_groups:
            group.setdefault("step", 0)
            self._start_moments(group["params"])

    def _start_moments(self, params: Iterable[torch.Tensor]) -> None:
        for p in params:
            if "exp_avg" not in self.state[p]:
                self.state[p].update(exp_avg=self._zeros_like(p), exp_avg_sq=self._zeros_like(p))

    def _zeros_like(self, p: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(p)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            params = [p for p in group["params"] if p.grad is not None]
            self._start_moments(params)
            whole = [(p, p.grad, self.state[p]["exp_avg"], self.state[p]["exp_avg_sq"]) for p in params]
            for pieces in _slices(whole, self._slice_numbers):
                self._step_slice(group, *([*tensors] for tensors in zip(*pieces, strict=True)))

    def _step_slice(
        self,
        group: dict[str, Any],
        params: list[torch.Tensor],
        grads: list[torch.Tensor],
        first: list[torch.Tensor],
        second: list[torch.Tensor],
    ) -> None:
        (beta1, beta2), lr, step = group["betas"], group["lr"], group["step"]
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_lerp_(first, grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
        denominator = torch._foreach_sqrt(second)
        torch._foreach_div_(denominator, (1 - beta2**step) ** 0.5)
        torch._foreach_add_(denominator, group["eps"])
        torch._foreach_addcdiv_(params, first, denominator, -lr / (1 - beta1**step))


class OffloadedAdam(GroupStepAdam):
    """The same, with moments in the machine's memory (page-locked beside a GPU): a slice of them at a time goes to the parameters'
    device, is stepped there, and goes back."""

    def __init__(self, params: Iterable[Any], **named: Any) -> None:
        super().__init__(params, **named)
        self._memory = HostMemory()

    def _zeros_like(self, p: torch.Tensor) -> torch.Tensor:
        return self._memory.empty(p.shape, p.dtype).zero_()

    def bring_home(self) -> None:
        """Moments that loading a checkpoint has put onto the device, or into memory that is not page-locked."""
        self._memory = HostMemory()
        for moments in self.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = self._memory.copy_of(moments[name])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        super().step(closure)
        _wait_for_copies()

    def _step_slice(
        self,
        group: dict[str, Any],
        params: list[torch.Tensor],
        grads: list[torch.Tensor],
        first: list[torch.Tensor],
        second: list[torch.Tensor],
    ) -> None:
        here = [
            [
                torch.empty_like(m, device=p.device).copy_(m, non_blocking=True)
                for m, p in zip(kept, params, strict=True)
            ]
            for kept in (first, second)
        ]
        super()._step_slice(group, params, grads, *here)
        for kept, stepped in zip((first, second), here, strict=True):
            for home, moved in zip(kept, stepped, strict=True):
                home.copy_(moved, non_blocking=True)


class HostMasters:
    """Float32 masters that lie in the machine's memory and are on their device only inside `on_device`, for an optimizer step."""

    def __init__(self, masters: Sequence[torch.Tensor]) -> None:
        memory = HostMemory()
        self._masters = [(master, master.device, memory.copy_of(master.data)) for master in masters]
        self._go_home()

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """What is done to the masters inside is kept; their gradients are gone afterwards."""
        for master, device, home in self._masters:
            master.data = torch.empty_like(home, device=device).copy_(home, non_blocking=True)
        try:
            yield
        finally:
            for master, _, home in self._masters:
                master.grad = None
                home.copy_(master.data, non_blocking=True)
            _wait_for_copies()
            self._go_home()

    def _go_home(self) -> None:
        for master, _, home in self._masters:
            master.data = home


def _wait_for_copies() -> None:
    if torch.cuda.is_available():
        torch.cuda.current_stream().synchronize()


def _slices(tensors: Iterable[tuple[torch.Tensor, ...]], numbers: int) -> Iterator[list[tuple[torch.Tensor, ...]]]:
    """Tuples of equally shaped tensors, cut and gathered so that the first of all tuples in a list have at most `numbers` numbers
    together. What is cut must be contiguous."""
    pieces: list[tuple[torch.Tensor, ...]] = []
    room = numbers
    for whole in tensors:
        size = whole[0].numel()
        if size <= room:
            pieces.append(whole)
            room -= size
            continue
        if pieces:
            yield pieces
            pieces, room = [], numbers
        flat = whole if size <= numbers else tuple(tensor.view(-1) for tensor in whole)
        start = 0
        while size - start > numbers:
            yield [tuple(tensor[start : start + numbers] for tensor in flat)]
            start += numbers
        pieces.append(tuple(tensor[start:] for tensor in flat) if start else whole)
        room -= size - start
    if pieces:
        yield pieces
