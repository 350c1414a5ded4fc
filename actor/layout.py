"""How a model is spread over ranks: tensor, sequence, pipeline, context and data parallel (pure, no torch).

Neighbours: `actor.specs` carries one for the actor and one for the critic, `actor.megatron.parallel` builds process groups from
it, `orchestrator` fills it from the config and plans memory with it.
Invariants: ranks = tensor x context x data x pipeline, in this order from the fastest to the slowest (Megatron's default), so
that tensor-parallel ranks are neighbours; every layout trains the same model.
"""

from __future__ import annotations

from dataclasses import dataclass

# The vocabulary is padded to a multiple of this in every layout, so that checkpoints of all layouts have equal shapes.
VOCAB_MULTIPLE = 8


class LayoutError(ValueError):
    """Sizes that do not fit together or do not fit the model; the message names them."""


@dataclass(frozen=True, slots=True)
class Layout:
    """tensor: ranks that split every matrix; pipeline: groups of consecutive layers; context: ranks that split the rows of one
    micro-batch; data: copies of all this, each with its own share of a batch; sequence: norms and residuals, too, are split
    over the tensor-parallel ranks (by rows)."""

    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    data: int = 1
    sequence: bool = False

    def __post_init__(self) -> None:
        for name in ("tensor", "pipeline", "context", "data"):
            if getattr(self, name) < 1:
                raise LayoutError(f"{name} parallel must be at least 1, got {getattr(self, name)}")
        if self.sequence and self.tensor == 1:
            raise LayoutError("sequence parallel splits rows over tensor-parallel ranks; it needs tensor above 1")

    @classmethod
    def of_world(
        cls, world_size: int, tensor: int = 1, pipeline: int = 1, context: int = 1, sequence: bool = False
    ) -> Layout:
        """The layout that fills `world_size` ranks; the rest is data parallel. Raises LayoutError when they do not divide."""
        model = tensor * pipeline * context
        if model < 1 or world_size < 1 or world_size % model:
            raise LayoutError(
                f"tensor ({tensor}) x pipeline ({pipeline}) x context ({context}) = {model} ranks must divide world_size "
                f"({world_size}), all at least 1"
            )
        return cls(tensor, pipeline, context, world_size // model, sequence)

    @property
    def world_size(self) -> int:
        return self.tensor * self.pipeline * self.context * self.data

    @property
    def row_multiple(self) -> int:
        """Rows of a micro-batch come in multiples of this: each context rank takes two equal stretches, and sequence parallel
        splits a rank's rows again."""
        split = self.tensor if self.sequence else 1
        return split if self.context == 1 else 2 * self.context * split

    def check_model(self, *, heads: int, key_value_heads: int, ffn: int, layers: int) -> None:
        """Raises LayoutError, naming the field of config.json's text_config, when a decoder of these sizes does not divide."""
        for field, value, parts, kind in (
            ("num_attention_heads", heads, self.tensor, "tensor"),
            ("num_key_value_heads", key_value_heads, self.tensor, "tensor"),
            ("intermediate_size", ffn, self.tensor, "tensor"),
            ("num_hidden_layers", layers, self.pipeline, "pipeline"),
        ):
            if value % parts:
                raise LayoutError(f"text_config.{field}={value} does not divide by {kind}_parallel={parts}")
        if VOCAB_MULTIPLE % self.tensor:
            raise LayoutError(
                f"tensor_parallel={self.tensor} is not a divisor of {VOCAB_MULTIPLE} (vocabulary padding)"
            )

    def __str__(self) -> str:
        sizes = [("tp", self.tensor), ("pp", self.pipeline), ("cp", self.context), ("dp", self.data)]
        words = [f"{name}{size}" for name, size in sizes if size > 1]
        return "x".join(words + (["sp"] if self.sequence else [])) or "one rank"


def logits_at_once(rows: int, columns: int, width: int) -> tuple[int, int]:
    """Rows and columns of the logits that may exist at a time, out of `rows` x `columns` allowed ones, where a rank holds `width`
    columns: fewer columns than allowed leave room for more rows."""
    return (rows, columns) if columns <= width else (rows * columns // width, width)
