"""Encoder features for the trainer: read from the cache, through the adaptor once a clip when the adaptor is frozen.

Neighbours: `rollout.FeatureCache` holds the files that the engines read too; `actor.planning` asks for the clips of a batch.
Invariants: engine and trainer see the same stored array; embeddings of a frozen adaptor are shared by actor, critic and
reference model; memory is bounded, least recently used clips go first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import torch

from actor.megatron.batch import AudioRows
from rollout import FeatureCache, StepAudio2Config
from rollout.model.adaptor import Adaptor
from rollout.model.lengths import patch_count

# Enough for some thousand short clips of the tiny preset, or for one batch of long ones of a 7 B decoder.
KEEP_BYTES = 256 * 2**20


class AudioBank:
    """Clips by feature key. frozen: the adaptor when it is not trained (its outputs are kept), else None."""

    def __init__(
        self,
        feature_dir: str,
        config: StepAudio2Config,
        *,
        frozen: Adaptor | None,
        dtype: torch.dtype,
        device: torch.device,
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        self._cache = FeatureCache(feature_dir)
        self._config = config.audio_encoder_config
        self._frozen = frozen
        self._dtype = dtype
        self._device = device
        self._keep_bytes = keep_bytes
        self._kept: OrderedDict[str, AudioRows] = OrderedDict()
        self._bytes = 0

    def clear(self) -> None:
        """Forget everything (the adaptor's weights changed)."""
        self._kept.clear()
        self._bytes = 0

    def clips(self, keys: Iterable[str]) -> dict[str, AudioRows]:
        """Every distinct key's clip. Raises FeatureError for a key whose file is absent or damaged."""
        wanted = dict.fromkeys(keys)
        clips = {key: self._kept[key] if key in self._kept else self._read(key) for key in wanted}
        for key, clip in clips.items():
            if key not in self._kept:
                self._bytes += _size(clip)
            self._kept[key] = clip
            self._kept.move_to_end(key)
        while self._bytes > self._keep_bytes and self._kept:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= _size(dropped)
        return clips

    @torch.no_grad()
    def _read(self, key: str) -> AudioRows:
        features = torch.from_numpy(self._cache.get(key)).to(self._device, self._dtype)
        rows = patch_count(len(features), self._config)
        if self._frozen is None:
            return AudioRows(rows, features, None)
        return AudioRows(rows, features[:0], self._frozen(features))


def _size(clip: AudioRows) -> int:
    return clip.features.nbytes + (clip.embeddings.nbytes if clip.embeddings is not None else 0)
