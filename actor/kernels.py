"""Which kernels a trainer's layers run on: Transformer Engine's, or plain torch; one switch, resolved with a reason.

Neighbours: `actor.models` resolves it in every rank and builds layers by it, `orchestrator` refuses what cannot be before a run and shows
what was chosen. Invariants: `resolve_kernels` is pure and never takes less than was asked for by name; what is looked at is in
`Facts`; no torch import at the top.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet

KERNEL_CHOICES: tuple[str, ...] = ("auto", "transformer_engine", "torch")
ENGINE_VERSIONS = SpecifierSet(">=2.9.0a0,<2.12.0")  # what megatron-core 0.16.1 names in its own requirements
# Apex's kernel that adds a weight's gradient into Megatron's buffer; Megatron's own layers refuse the fusion without it.
GRADIENT_FUSION = "fused_weight_gradient_mlp_cuda"


class KernelsError(ValueError):
    """Kernels were asked for by name that this machine cannot run; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Of a machine. cuda: torch sees a GPU; engine: installed version of Transformer Engine, empty without one; complaint: why it
    cannot be imported, empty when it can or was not tried; gradient_fusion: Apex's kernel is there."""

    cuda: bool
    engine: str = ""
    complaint: str = ""
    gradient_fusion: bool = False


@dataclass(frozen=True, slots=True)
class Kernels:
    """What was chosen. name: "transformer_engine" | "torch"; reason: why; gradient_fusion: weight gradients are added into their
    buffer by the matrix product that makes them."""

    name: str
    reason: str
    gradient_fusion: bool = False

    @property
    def engine(self) -> bool:
        return self.name == "transformer_engine"

    @property
    def parts(self) -> str:
        """What runs on which kernel, for people."""
        if not self.engine:
            return "linear, RMS norm, SwiGLU, Adam: torch; attention: torch SDPA; head: chunked torch"
        gradient = "in the buffer (Apex)" if self.gradient_fusion else "separate"
        return (
            "linear with RMS norm, Adam: Transformer Engine; attention: Transformer Engine where order is plain and causal, torch "
            f"SDPA where prompts are shared or the context is split; SwiGLU: Megatron's fused; weight gradients: {gradient}; head: "
            "chunked torch"
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.reason}); {self.parts}"


TORCH = Kernels("torch", "asked for")


def resolve_kernels(choice: str, device: str, facts: Facts) -> Kernels:
    """choice: of KERNEL_CHOICES; device: "cpu" | "cuda" that the trainer runs on. Raises KernelsError for "transformer_engine" where it
    cannot run."""
    if choice not in KERNEL_CHOICES:
        raise KernelsError(f"kernels must be one of {', '.join(KERNEL_CHOICES)}, got {choice!r}")
    if choice == "torch":
        return TORCH
    obstacle, remedy = _obstacle(device, facts)
    if not obstacle:
        found = f"Transformer Engine {facts.engine} on CUDA"
        return Kernels(
            "transformer_engine", found if choice == "auto" else f"asked for, {found}", facts.gradient_fusion
        )
    if choice == "transformer_engine":
        raise KernelsError(f"kernels=transformer_engine: {obstacle}; {remedy}, or take kernels=auto or kernels=torch")
    return Kernels("torch", f"auto: {obstacle}")


def _obstacle(device: str, facts: Facts) -> tuple[str, str]:
    """Why Transformer Engine cannot be used, and what would change that; both empty when it can."""
    if device != "cuda":
        return (
            f"the trainer runs on device={device}, Transformer Engine needs CUDA",
            "set device=cuda on a machine with GPUs",
        )
    if not facts.cuda:
        return "torch sees no GPU", "look at the driver and CUDA_VISIBLE_DEVICES (mgrd doctor)"
    if not facts.engine:
        install = 'pip install "transformer-engine[pytorch]' + f'{ENGINE_VERSIONS}"'
        return "Transformer Engine is not installed", install
    if not ENGINE_VERSIONS.contains(facts.engine, prereleases=True):
        return (
            f"Transformer Engine {facts.engine} is installed, megatron-core needs {ENGINE_VERSIONS}",
            "install one of those",
        )
    if facts.complaint:
        return (
            f"Transformer Engine {facts.engine} cannot be imported: {facts.complaint}",
            "install the build for this torch and CUDA",
        )
    return "", ""


def kernel_facts(device: str) -> Facts:
    """Of this machine, by importing what would be used; nothing is imported for a trainer on a CPU."""
    if device != "cuda":
        return Facts(cuda=False)
    import torch

    cuda, version = torch.cuda.is_available(), engine_version()
    complaint = ""
    if cuda and version:
        try:
            importlib.import_module("transformer_engine.pytorch")
        except (ImportError, OSError, RuntimeError) as error:  # a library it loads is absent, or of another CUDA
            complaint = f"{type(error).__name__}: {error}"
    return Facts(cuda, version, complaint, importlib.util.find_spec(GRADIENT_FUSION) is not None)


def engine_version() -> str:
    """Installed version of Transformer Engine, by metadata; empty without one."""
    try:
        return importlib.metadata.version("transformer-engine")
    except importlib.metadata.PackageNotFoundError:
        return ""
