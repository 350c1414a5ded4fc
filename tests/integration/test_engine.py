"""One real vLLM engine: reproducible batches, weight swaps, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from engine_room import probe_of, sampling, update_of

from rollout import FinishReason, load_config, special_ids
from rollout.errors import RequestRefused, WeightsRefused

if TYPE_CHECKING:
    from engine_room import EngineRoom

pytestmark = pytest.mark.slow

LIMIT = 1e-4  # nats


@pytest.fixture
def restored(engine_room: EngineRoom) -> Iterator[EngineRoom]:
    """The engine room, put back on its own weights after a test that swaps."""
    yield engine_room
    engine_room.restore()


def test_the_same_batch_and_seeds_give_the_same_tokens_bit_for_bit(engine_room: EngineRoom) -> None:
    prompts = [*engine_room.audio_prompts, *engine_room.text_prompts]
    first = engine_room.generate(prompts, samples=4, tokens=24)
    engine_room.generate(prompts[:3], seed=99)
    again = engine_room.generate(prompts, samples=4, tokens=24)
    assert again == first
    other = engine_room.generate(prompts, samples=4, tokens=24, seed=1)
    assert [s.response_ids for s in other[0]] != [s.response_ids for s in first[0]]


def test_greedy_questions_leave_the_sampled_ones_of_a_batch_reproducible(engine_room: EngineRoom) -> None:
    prompts = [engine_room.audio_prompts[0], engine_room.text_prompts[0], engine_room.audio_prompts[1]]
    specs = [sampling(5), sampling(0, samples=1, temperature=0.0), sampling(8)]
    runs = [
        engine_room.run(engine_room.engine.generate(prompts, specs, ["a", "b", "c"])),
        engine_room.run(engine_room.engine.generate(prompts, specs, ["a", "b", "c"])),
    ]
    assert runs[0] == runs[1]


def test_sample_i_is_drawn_with_seed_plus_i(engine_room: EngineRoom) -> None:
    prompt = engine_room.audio_prompts[2]
    (group,) = engine_room.generate([prompt], samples=4, seed=40)
    (alone,) = engine_room.generate([prompt], samples=1, seed=43)
    assert [len(g) for g in engine_room.generate(engine_room.text_prompts, samples=3)] == [3, 3]
    assert [s.sample for s in group] == [0, 1, 2, 3]
    assert alone[0].response_ids == group[3].response_ids


def test_trajectories_say_how_they_ended(engine_room: EngineRoom) -> None:
    eot = special_ids(engine_room.builder.tokenizer).eot
    samples = [s for g in engine_room.generate(engine_room.audio_prompts, samples=8, tokens=40) for s in g]
    assert {s.finish_reason for s in samples} == {FinishReason.STOP, FinishReason.LENGTH}
    for sample in samples:
        assert (sample.response_ids[-1] == eot) == (sample.finish_reason is FinishReason.STOP)
        assert eot not in sample.response_ids[:-1]
        assert len(sample.logprobs) == len(sample.versions) == len(sample.response_ids) <= 40


def test_placeholders_are_never_sampled_and_log_probs_stay_raw(restored: EngineRoom) -> None:
    special = special_ids(restored.builder.tokenizer)
    weights = restored.weights()
    for name in ("model.embed_tokens.weight",):
        weights[name][list(special.banned)] = 3 * weights[name].mean(0) + 0.5 * weights[name][special.eot]
    weights["model.norm.weight"] *= 2
    restored.run(restored.engine.swap(update_of(3, weights)))
    samples = [s for g in restored.generate(restored.audio_prompts, samples=6) for s in g]
    assert not {token for s in samples for token in s.response_ids} & set(special.banned)
    assert restored.worst(restored.reference_on(weights), samples) <= LIMIT


def test_a_bad_request_fails_alone(engine_room: EngineRoom) -> None:
    good = engine_room.audio_prompts[0]
    bad = {
        "features 0000": replace(good, question_id="no features", feature_keys=("0" * 64,)),
        "must be floats": replace(good, question_id="narrow", feature_keys=("narrow",)),
        "raise max_model_len": replace(
            good, question_id="long", compact_ids=good.compact_ids * 60, expanded_ids=good.expanded_ids * 60
        ),
        "the trainer expects": replace(good, question_id="other", expanded_ids=good.expanded_ids[:-1]),
    }
    prompts = [good, *bad.values(), engine_room.text_prompts[0]]

    async def all_outcomes() -> dict[int, object]:
        specs = [sampling(number) for number in range(len(prompts))]
        clips = {"narrow": np.zeros((10, 63), np.float32)}
        ids = [prompt.question_id for prompt in prompts]
        return {j: outcome async for j, outcome in engine_room.engine.stream(prompts, specs, ids, clips)}

    outcomes = engine_room.run(all_outcomes())
    for number, words in enumerate(bad, start=1):
        assert isinstance(outcomes[number], RequestRefused)
        assert words in str(outcomes[number])
        assert repr(prompts[number].question_id) in str(outcomes[number])
    assert len(outcomes[0]) == len(outcomes[5]) == 2
    assert engine_room.worst(engine_room.reference, [*outcomes[0], *outcomes[5]]) <= LIMIT
    with pytest.raises(RequestRefused, match="no features"):
        engine_room.generate([good, bad["features 0000"]])


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (np.zeros(600, np.float32), "must have one dimension and 0.08..29.98 s"),
        (np.zeros(16000 * 31, np.float32), "cut longer audio into several items"),
        (np.zeros((2, 3, 4), np.float32), "must have one dimension"),
        (np.zeros((10, 128), np.int64), "audio features must be floats"),
        (np.zeros((0, 128), np.float32), "audio features must be floats"),
        (np.zeros((5000, 128), np.float32), "audio features must be floats"),
    ],
)
def test_audio_that_the_model_cannot_take_is_refused_in_words(
    engine_room: EngineRoom, item: np.ndarray, words: str
) -> None:
    prompt = replace(engine_room.audio_prompts[0], feature_keys=("odd",))
    with pytest.raises(RequestRefused, match=words):
        engine_room.run(engine_room.engine.generate([prompt], [sampling(0)], ["odd"], {"odd": item}))


def test_more_clips_than_the_engine_allows_are_refused(engine_room: EngineRoom) -> None:
    with pytest.raises(RequestRefused, match="At most 4 audio"):
        engine_room.generate([engine_room.ask("five clips", [0, 0, 1, 1, 2])])


def test_an_engine_without_encoder_refuses_waveforms(engine_room: EngineRoom) -> None:
    from rollout.model.vllm_plugin.items import AudioParser

    config = load_config(engine_room.model_dir).audio_encoder_config
    parser = AudioParser(config, with_encoder=False)
    with pytest.raises(ValueError, match="holds no audio encoder"):
        parser.parse_mm_data({"audio": [engine_room.clips[0]]})
    assert len(parser.parse_mm_data({"audio": [np.zeros((10, config.feature_dim), np.float32)]})["audio"]) == 1


def test_after_a_swap_the_probe_follows_the_new_weights(restored: EngineRoom) -> None:
    prompts = [*restored.audio_prompts, *restored.text_prompts]
    samples = [group[0] for group in restored.generate(prompts, samples=1)]
    probes = [probe_of(p, s) for p, s in zip(prompts, samples, strict=True)]
    weights = restored.changed_weights(1)
    new = restored.reference_on(weights)
    report = restored.run(restored.engine.swap(update_of(1, weights)))
    assert (report.version, report.checksum) == (1, update_of(1, weights).checksum)
    for sample, probed in zip(samples, restored.run(restored.engine.probe(probes)), strict=True):
        assert np.abs(restored.log_probs(new, sample) - probed).max() <= LIMIT
        assert np.abs(restored.log_probs(restored.reference, sample) - probed).max() > 1e-2, "stale weights"
    fresh = [s for group in restored.generate(prompts) for s in group]
    assert {version for s in fresh for version in s.versions} == {1}
    assert restored.worst(new, fresh) <= LIMIT


def test_a_swap_in_flight_marks_each_token_with_the_weights_that_sampled_it(restored: EngineRoom) -> None:
    weights = restored.changed_weights(2)
    prompts, engine = restored.audio_prompts, restored.engine

    async def swap_meanwhile() -> list[list]:
        specs = [sampling(1000 * number, samples=3, tokens=200) for number in range(len(prompts))]
        batch = asyncio.create_task(engine.generate(prompts, specs, [p.question_id for p in prompts]))
        while not batch.done() and sum(engine.tokens_in_flight()) < 120:
            await asyncio.sleep(0.002)
        await engine.swap(update_of(6, weights))
        return await batch

    samples = [s for group in restored.run(swap_meanwhile()) for s in group]
    spanning = [s for s in samples if set(s.versions) == {0, 6}]
    assert len(spanning) >= 3
    new = restored.reference_on(weights)
    for sample in spanning:
        switch = sample.versions.index(6)
        assert sample.versions == (0,) * switch + (6,) * (len(sample.versions) - switch)
        by_old, by_new = (np.abs(restored.log_probs(m, sample) - sample.logprobs) for m in (restored.reference, new))
        assert by_old[:switch].max() <= LIMIT
        assert by_new[switch:].max() <= LIMIT


@pytest.mark.parametrize("fault", ["checksum", "a tensor missing", "a shape", "other bytes"])
def test_a_faulty_update_is_refused_and_the_old_weights_stay(engine_room: EngineRoom, fault: str) -> None:
    sample = engine_room.generate(engine_room.audio_prompts[:1], samples=1)[0][0]
    probe = [probe_of(engine_room.audio_prompts[0], sample)]
    before = engine_room.run(engine_room.engine.probe(probe))
    weights = engine_room.changed_weights(3)
    update = update_of(9, weights)
    if fault == "checksum":
        update = replace(update, checksum="0" * 32)
    elif fault == "a tensor missing":
        del weights["model.layers.0.self_attn.k_proj.bias"]
        update = update_of(9, weights)
    elif fault == "a shape":
        weights["adapter.linear1.bias"] = weights["adapter.linear1.bias"][:-1].clone()
        update = update_of(9, weights)
    else:
        update = replace(update, buckets=tuple(replace(b, data=bytes(len(b.data))) for b in update.buckets))
    with pytest.raises(WeightsRefused, match="version 9"):
        engine_room.run(engine_room.engine.swap(update))
    assert engine_room.run(engine_room.engine.probe(probe)) == before
    assert engine_room.engine.version == 0


def test_a_cancelled_batch_frees_the_engine(engine_room: EngineRoom) -> None:
    async def cancel_then_generate() -> list:
        prompts, engine = engine_room.audio_prompts, engine_room.engine
        specs = [sampling(number, tokens=400) for number in range(len(prompts))]
        batch = asyncio.create_task(engine.generate(prompts, specs, ["x"] * len(prompts)))
        while not engine.tokens_in_flight():
            await asyncio.sleep(0.005)
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        after = await engine.generate(prompts[:1], [sampling(1)], ["after"])
        assert not engine.tokens_in_flight()
        return after[0]

    assert len(engine_room.run(cancel_then_generate())) == 2
