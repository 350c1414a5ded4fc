"""The adaptor: encoder features at 25 Hz to decoder embeddings at 12.5 Hz.

Neighbours: input from `encoder` (or the feature cache), output into the decoder's embeddings; the trainer trains it,
the engine runs it.
Invariants: parameter names are those of the public checkpoints under `adapter.`; a clip's result does not depend on
the clips beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rollout.model.config import StepAudio2EncoderConfig
from rollout.model.lengths import patch_count


class Adaptor(nn.Module):
    """conv [conv_channels, feature_dim, kernel] with stride, GELU, linear1, ReLU, linear2 to llm_dim."""

    def __init__(self, config: StepAudio2EncoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.conv_channels
        self.conv = nn.Conv1d(config.feature_dim, channels, config.kernel_size, stride=config.adapter_stride, padding=1)
        self.linear1 = nn.Linear(channels, config.adapter_state)
        self.linear2 = nn.Linear(config.adapter_state, config.llm_dim)

    def forward(self, features: Tensor) -> Tensor:
        """[T25, feature_dim] -> [patches, llm_dim], or the same with a leading batch dimension.

        A batch may be padded with zero frames: the convolution pads with zeros itself, so the first `patch_count(T25)`
        outputs of a clip stay what they are alone.
        """
        x = F.gelu(self.conv(features.transpose(-1, -2))).transpose(-1, -2)
        return self.linear2(F.relu(self.linear1(x)))

    def forward_many(self, features: Sequence[Tensor]) -> Tensor:
        """Clips [T25_i, feature_dim] of any lengths in one pass -> [sum of patches, llm_dim], in order."""
        if len({f.shape[0] for f in features}) == 1:
            return self(torch.stack(list(features))).flatten(0, 1)
        out = self(nn.utils.rnn.pad_sequence(list(features), batch_first=True))
        return torch.cat([out[i, : patch_count(f.shape[0], self.config)] for i, f in enumerate(features)])
