"""The decoder's last layer, which goes on after its attention with those rows alone that predict a response token.

Neighbours: `actor.megatron.parts` puts it at the end of the decoder; `actor.megatron.batch` says which rows. Invariants: rows that predict
nothing are needed as keys and values only, so every output and gradient is that of a whole layer; not used under sequence
parallelism, where a rank holds rows of a part of the sequence that need not be as many as its neighbour's.
"""

from __future__ import annotations

from typing import Any

import torch

from actor.megatron.device import ensure_importable

ensure_importable()

from megatron.core.transformer.transformer_layer import TransformerLayer  # noqa: E402


class LastLayer(TransformerLayer):
    def forward(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, Any]:
        """hidden states [N, 1, H] -> [K, 1, H], in the order of the batch's head_rows_K."""
        hidden_N1H, context = self._forward_attention(*args, **kwargs)
        return self._forward_mlp(hidden_N1H.index_select(0, kwargs["packed_seq_params"].head_rows_K)), context
