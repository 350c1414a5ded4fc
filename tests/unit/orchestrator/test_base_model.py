"""The base build: labels, trees of questions, scores, a run of a few steps, and the folder that ships."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from small_catalogue import KINDS, recordings, small_bank

from orchestrator.base_model.clips import ClipSource
from orchestrator.base_model.corpus import tokenizer_texts
from orchestrator.base_model.exercises import ExerciseWriter, Mix
from orchestrator.base_model.frames import END, HELD, ONSET, LabelSpace, kinds_of
from orchestrator.base_model.manifest import differences
from orchestrator.base_model.network import PseudoAudio, misheard, new_model, reply_logits, tiny_config
from orchestrator.base_model.scoring import Score, balanced_items, direct_score, generate
from orchestrator.base_model.stages import Schedule
from orchestrator.base_model.trees import IGNORED, Exercise, TreePacker
from orchestrator.datasets.acoustic_qa.questions import TASKS
from orchestrator.datasets.acoustic_qa.scenes import Catalogue, Event, Scene
from rollout import FeatureRef, PromptBuilder
from rollout.messages import AudioRef
from rollout.model.encoder import AudioEncoder
from rollout.model.lengths import lengths_from_samples
from rollout.model.tokenizer import train_tokenizer

SHIPPED = Path(__file__).parents[3] / "rollout" / "model" / "base"


class Room:
    """Everything small that several tests need, made once."""

    def __init__(self) -> None:
        catalogue = Catalogue(recordings())
        self.tokenizer = train_tokenizer(tokenizer_texts(catalogue, 0), 560)
        self.config = tiny_config(self.tokenizer)
        self.exercises = ExerciseWriter(PromptBuilder(self.tokenizer, self.config))
        self.source = ClipSource(catalogue, "train", self.exercises, self.config.audio_encoder_config)
        special = self.exercises.builder.special
        self.packer = TreePacker(
            self.exercises.before_ids, self.exercises.after_ids, special.audio_patch, special.pad, width=200
        )
        torch.set_num_threads(1)  # two threads on two busy cores wait for each other far longer than they compute
        torch.manual_seed(0)
        self.model = new_model(self.config, self.tokenizer).eval()
        self.pseudo = PseudoAudio(self.source.space, 128)
        self.clips = [self.source.clip(self.source.scene(seed)) for seed in range(40)]


@pytest.fixture(scope="module")
def room() -> Room:
    return Room()


def test_labels_say_when_each_sound_starts_ends_and_how_it_sounds() -> None:
    space = LabelSpace(kinds_of(KINDS))
    events = (
        Event("a", "violin", "music", 0.24, 0.4, 0.0, 69, 1.0, 0.0),
        Event("b", "dog", "sound", 0.96, 0.08, -9.0, None, 1.0, 0.0),
    )
    labels = space.labels(Scene(events, 1.4, -40.0, 0.0, 1, "sequence"), 17)
    violin = 1 + space.kinds.index("violin")
    assert labels[:, 0].tolist() == [0] * 3 + [violin] * 5 + [0] * 4 + [1 + space.kinds.index("dog")] + [0] * 4
    assert labels[3:8, 3].tolist() == [ONSET, HELD, HELD, HELD, END]
    assert labels[12].tolist()[1:4] == [1, 4, ONSET]  # no pitch, fourth level (-9 dB), one frame long
    assert labels[3, 1] == 2 + 7  # 440 Hz
    assert labels[3, 4] == 1 + 2 and labels[7, 4] == 1 + 6  # 0.2 s and 0.6 s, to the tenth
    assert all((labels.max(0) < np.array(space.sizes)).tolist())


def test_labels_fit_every_scene_of_the_catalogue(room: Room) -> None:
    for clip in room.clips:
        onsets = int((clip.labels_TF[:, 3] == ONSET).sum())
        assert onsets == len(clip.scene.events)
        samples = round(clip.scene.seconds * 16000)
        assert clip.frames == lengths_from_samples(samples, room.config.audio_encoder_config).patches


def test_a_row_holds_every_conversation_as_the_prompt_builder_writes_it(room: Room) -> None:
    clip = room.clips[0]
    question = room.source.questions(clip.scene, 0)[0]
    asked = dataclasses.replace(question, audio=(AudioRef("x", "x", 1.0),))
    frames = lengths_from_samples(round(clip.scene.seconds * 16000), room.config.audio_encoder_config).features
    prompt = room.exercises.builder.build(asked, [FeatureRef("k", frames)])
    assert room.exercises.prompt_ids(question, clip.frames) == prompt.expanded_ids
    exercise = room.exercises.answering(question, direct=True, think=True)
    batch = room.packer.pack([(clip.frames, [exercise])])
    taught = [target for target in batch.targets_BL[0].tolist() if target != IGNORED]
    direct = room.exercises.builder.response("", question.answer)
    assert tuple(taught[: len(direct)]) == direct
    assert room.tokenizer.decode(taught[len(direct) :]).startswith("<think>\n")


def test_a_branch_gives_the_logits_of_the_conversation_alone(room: Room) -> None:
    clips = [clip for clip in room.clips if len(room.source.questions(clip.scene, 0)) > 1][:3]
    rng = random.Random(0)
    parts = [(c.frames, room.source.exercises(c.scene, 0, Mix(1.0, 1.0, 1.0), rng)) for c in clips]
    with torch.no_grad():
        audio = [room.pseudo(torch.from_numpy(clip.labels_TF)) for clip in clips]
        batch = room.packer.pack(parts)
        packed, _ = reply_logits(room.model, batch, torch.cat([audio[i] for i in batch.order]))
        alone = []
        for index in batch.order:
            frames, exercises = parts[index]
            for exercise in exercises:
                for reply in exercise.replies_ids:
                    single = room.packer.pack([(frames, [Exercise(exercise.prompt_ids, (reply,))])])
                    plain = dataclasses.replace(single, mask_B1LL=np.tril(np.ones_like(single.mask_B1LL)))
                    assert single.places_BL.tolist() == [list(range(single.ids_BL.shape[1]))]
                    alone.append(reply_logits(room.model, plain, audio[index])[0])
    assert torch.allclose(packed, torch.cat(alone), atol=2e-4)


def test_rows_are_filled_and_no_clip_is_lost(room: Room) -> None:
    rng = random.Random(1)
    parts = [(clip.frames, room.source.exercises(clip.scene, 0, Mix(), rng)) for clip in room.clips]
    batch = room.packer.pack(parts)
    assert sorted(batch.order) == list(range(len(parts)))
    patch = room.exercises.builder.special.audio_patch
    assert int((batch.ids_BL == patch).sum()) == sum(frames for frames, _ in parts)
    assert len(batch.ids_BL) < len(parts)


def test_mishearing_keeps_labels_in_range_and_silence_unpitched(room: Room) -> None:
    rng = np.random.default_rng(0)
    for clip in room.clips:
        heard = misheard(clip.labels_TF, room.source.space.sizes, rng)
        assert (heard >= 0).all() and (heard < np.array(room.source.space.sizes)).all()
        assert ((heard[:, 0] == 0) == (heard[:, 1] == 0)).all()


def test_greedy_generation_repeats_the_argmax_of_a_full_pass(room: Room) -> None:
    clips = room.clips[:3]
    prompts = []
    for clip in clips:
        question = room.source.questions(clip.scene, 0)[0]
        vectors = room.pseudo(torch.from_numpy(clip.labels_TF)).detach()
        prompts.append((room.exercises.prompt_ids(question, clip.frames), vectors))
    special = room.exercises.builder.special
    found = generate(
        room.model, prompts, temperature=0.0, end_id=special.eot, banned=special.banned, seed=0, max_new_tokens=5
    )
    for (ids, vectors), response in zip(prompts, found, strict=True):
        sequence = torch.tensor([[*ids, *response]])
        with torch.no_grad():
            embedded = room.model.model.embed_tokens(sequence)
            embedded[sequence == special.audio_patch] = vectors
            hidden = room.model.model(inputs_embeds=embedded).last_hidden_state
            logits = room.model.lm_head(hidden)[0, len(ids) - 1 : -1]
        logits[:, list(special.banned)] = -math.inf
        assert logits.argmax(-1).tolist() == response


def test_scores_count_by_task_and_an_untrained_model_is_wrong(room: Room) -> None:
    score = Score.of(["word", "word", "order"], [1.0, 0.0, 1.0])
    assert score.by_task == {"word": (0.5, 2), "order": (1.0, 1)}
    assert score.accuracy == pytest.approx(2 / 3)
    items = balanced_items(room.source, room.clips, 1)
    assert len({item.question.task for item in items}) == len(items)
    untrained = direct_score(room.model, room.exercises, room.packer, items, pseudo=room.pseudo)
    assert untrained.accuracy < 0.5


def test_the_learning_rate_rises_then_falls() -> None:
    schedule = Schedule(steps=100, clips=1, lr=1.0, warmup=10)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == 1.0 and rates[-1] == pytest.approx(0.02, abs=0.01)


def test_a_micro_build_writes_a_whole_folder_and_the_same_seed_repeats_it(tmp_path: Path) -> None:
    from orchestrator.base_model import MICRO, build_base

    bank = small_bank()
    torch.manual_seed(3)
    catalogue = Catalogue(bank.recordings)
    config = tiny_config(train_tokenizer(tokenizer_texts(catalogue, 1), 560)).audio_encoder_config
    raw = type(config)(**{**config.to_dict(), "feature_standardize": False})
    weights = {f"encoder.{name}": tensor for name, tensor in AudioEncoder(raw).state_dict().items()}
    manifests = [
        build_base(tmp_path / name, seed=1, sizes=MICRO, bank=bank, encoder_weights=weights, device="cpu", processes=1)
        for name in ("one", "two")
    ]
    assert differences(tmp_path / "one") == []
    assert manifests[0]["files"] == manifests[1]["files"]
    assert set(manifests[0]["scores_held_out"]["direct"]["by_task"]) <= set(TASKS)
    assert json.loads((tmp_path / "one" / "manifest.json").read_text()) == manifests[0]
    (tmp_path / "one" / "config.json").write_text("{}")
    assert differences(tmp_path / "one") == ["config.json has other content than the manifest says"]


def test_the_shipped_base_matches_its_manifest_and_hears() -> None:
    manifest = json.loads((SHIPPED / "manifest.json").read_text())
    assert differences(SHIPPED) == []
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 16 * 2**20
    assert 1e6 <= manifest["parameters"]["decoder"] <= 4e6
    direct = manifest["scores_held_out"]["direct"]
    assert direct["tasks_above"] >= 7 and direct["n"] >= 400
    think = manifest["scores_held_out"]["cold_start_greedy"]
    assert think["accuracy"] >= direct["accuracy"] - math.hypot(think["stderr"], direct["stderr"])
