"""The engine against the plain-torch reference in fp32: the same ids must have the same log-probs on both sides."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from engine_room import EngineRoom

pytestmark = pytest.mark.slow

LIMIT = 1e-4  # nats


def test_features_give_the_reference_log_probs(engine_room: EngineRoom) -> None:
    groups = engine_room.generate(engine_room.audio_prompts)
    assert engine_room.worst(engine_room.reference, [s for group in groups for s in group]) <= LIMIT


def test_text_gives_the_reference_log_probs(engine_room: EngineRoom) -> None:
    groups = engine_room.generate(engine_room.text_prompts)
    assert engine_room.worst(engine_room.reference, [s for group in groups for s in group]) <= LIMIT


def test_waveforms_give_the_log_probs_of_their_features(engine_room: EngineRoom) -> None:
    from engine_room import sampling

    raw = [replace(p, feature_keys=(f"raw-{n}",)) for n, p in enumerate(engine_room.audio_prompts)]
    clips = {f"raw-{n}": clip for n, clip in enumerate(engine_room.clips)}
    specs = [sampling(1000 * n) for n in range(len(raw))]
    groups = engine_room.run(engine_room.engine.generate(raw, specs, [p.question_id for p in raw], clips))
    samples = [
        replace(s, feature_keys=p.feature_keys)
        for p, g in zip(engine_room.audio_prompts, groups, strict=True)
        for s in g
    ]
    assert engine_room.worst(engine_room.reference, samples) <= LIMIT


def test_several_clips_in_one_prompt_keep_their_order(engine_room: EngineRoom) -> None:
    prompts = [engine_room.ask("three clips", [3, 0, 5]), engine_room.ask("turned round", [5, 0, 3])]
    groups = engine_room.generate(prompts)
    assert engine_room.worst(engine_room.reference, [s for group in groups for s in group]) <= LIMIT
    turned = [replace(s, feature_keys=prompts[1].feature_keys) for s in groups[0]]
    assert engine_room.worst(engine_room.reference, turned) > 100 * LIMIT


def test_probe_gives_the_reference_log_probs_of_given_responses(engine_room: EngineRoom) -> None:
    from engine_room import probe_of

    prompts = [*engine_room.audio_prompts, *engine_room.text_prompts, engine_room.ask("two clips", [1, 4])]
    samples = [group[0] for group in engine_room.generate(prompts, samples=1)]
    probed = engine_room.run(engine_room.engine.probe([probe_of(p, s) for p, s in zip(prompts, samples, strict=True)]))
    for sample, logprobs in zip(samples, probed, strict=True):
        assert np.abs(engine_room.log_probs(engine_room.reference, sample) - np.asarray(logprobs)).max() <= LIMIT


def test_log_probs_are_raw_at_another_temperature(engine_room: EngineRoom) -> None:
    groups = engine_room.generate(engine_room.audio_prompts[:2], temperature=0.5)
    assert engine_room.worst(engine_room.reference, [s for group in groups for s in group]) <= LIMIT
