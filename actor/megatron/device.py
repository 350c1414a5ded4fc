"""Megatron-core 0.16.1 without CUDA: rewrite its hard-coded device literals while it is imported.

Neighbours: everything under `actor.megatron` imports `ensure_importable` before the first `megatron.core` import.
Invariants: nothing changes where CUDA is available; rewritten modules are never written to the shared bytecode cache; the
rules hold for exactly one version of megatron-core (`SUPPORTED_VERSION`), which is checked.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType, ModuleType

import torch

SUPPORTED_VERSION = "0.16.1"
PREFIX = "megatron.core."
# Modules that are imported but never run here, and whose CUDA use goes beyond device literals.
UNTOUCHED = ("megatron.core.distributed.fsdp.", "megatron.core.inference.", "megatron.core.nccl_allocator")


# What Megatron-core says on every run of this trainer and nobody can act on.
NOISE = (
    ".*(Apex|Transformer Engine).*",
    ".*tp_group is None, using default tp group.*",
    ".*full scope is deprecated.*",
    ".*MLP requires ffn_hidden_size.*",
    ".*(reduce_scatter_tensor|all_gather_into_tensor). is deprecated.*",
    "The .grad attribute of a Tensor that is not a leaf Tensor.*",
    ".*custom_layers.transformer_engine.*",
)


class DeviceError(RuntimeError):
    """Megatron-core cannot be used as it is installed or imported; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One substitution. module: full name it is limited to (empty: everywhere)."""

    pattern: str
    replacement: str
    module: str = ""


RULES = (
    Rule(r"""\bdevice\s*=\s*(['"])cuda\1""", "device='cpu'"),
    Rule(r"torch\.cuda\.current_device\(\)", "'cpu'"),
    Rule(r"""(['"])torch\.cuda\.(Half|BFloat16|Float)Tensor\1""", r"'torch.\2Tensor'"),
    Rule(r"\.cuda\((?:non_blocking=True|'cpu')?\)", ".cpu()"),
    Rule(r"torch\.cuda\.synchronize\(\)", "None"),
    Rule(r"""init_data\((['"])cuda\1\)""", "init_data('cpu')"),
    Rule(r"""torch\.autocast\((['"])cuda\1""", "torch.autocast('cpu'"),
    Rule(r"\bpin_memory\s*=\s*True", "pin_memory=False"),
    # The random-state tracker works on the CPU generator instead of the device's.
    Rule(r"torch\.cuda\.(?:random\.)?get_rng_state\((?:device=device)?\)", "torch.get_rng_state()"),
    Rule(r"torch\.cuda\.manual_seed\(", "torch.manual_seed("),
    Rule(r"torch\.cuda\.set_rng_state\(", "torch.set_rng_state("),
    Rule(r"_lazy_call\(cb\)", "torch.set_rng_state(new_state)", "megatron.core.tensor_parallel.random"),
    # It warns when the CPU generator moved inside a device context; here both are the same generator.
    Rule(
        r"if not torch\.all\(cpu_rng_state == torch\.get_rng_state\(\)\)\.item\(\):",
        "if False:",
        "megatron.core.tensor_parallel.random",
    ),
    # torch.compile on a CPU would build C++ at run time; the helpers run eagerly.
    Rule(r"(?m)^enable_jit_fuser\(\)$", "disable_jit_fuser()", "megatron.core.jit"),
)


def rewrite(module: str, source: str) -> str:
    """Source of a megatron.core module with every rule applied."""
    for rule in RULES:
        if rule.module in ("", module):
            source = re.sub(rule.pattern, rule.replacement, source)
    return source


class _RewritingLoader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        source = importlib.util.decode_source(self.get_data(path))
        rewritten = rewrite(fullname, source)
        if rewritten == source:
            return super().get_code(fullname)
        return self.source_to_code(rewritten.encode(), path)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(PREFIX) or fullname.startswith(UNTOUCHED):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _RewritingLoader(fullname, spec.loader.path)
        return spec


def ensure_importable() -> None:
    """Call before importing megatron.core; calling again does nothing.

    Raises DeviceError when another version is installed, or when megatron.core was imported without this call.
    """
    version = importlib.metadata.version("megatron-core")
    if version != SUPPORTED_VERSION:
        raise DeviceError(f"megatron-core {version} is installed; this trainer needs {SUPPORTED_VERSION} exactly")
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    if torch.cuda.is_available() or any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    if "megatron.core" in sys.modules:
        raise DeviceError("megatron.core was imported before actor.megatron; import actor.megatron first")
    sys.meta_path.insert(0, _Finder())
