"""What the cold start and refinement train on: sources without examples are noted, no clip is both heard and denied."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from actor import SftExample
from orchestrator.config.recipe import ColdStartConfig
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data_stage import Questions
from orchestrator.datasets.demonstrations import Demonstration
from orchestrator.datasets.identity import prompt_digest
from orchestrator.datasets.mixing import usable_shares
from orchestrator.datasets.text_reasoning import reasoning_of, text_questions
from orchestrator.distillation.chains import KeptChain
from orchestrator.errors import RunFailed
from orchestrator.observer import Nobody
from orchestrator.parts import Parts
from orchestrator.progress import ProgressView
from orchestrator.stages import cold_start, refine
from orchestrator.stages.cold_start import asked_about_hearing, reasoned
from rollout import PromptBuilder
from rollout.messages import AnswerKind, AudioRef, Question
from rollout.model.reference import SAMPLE_TEXT, random_config
from rollout.model.tokenizer import train_tokenizer

OWN = Question("mine", "What is seven?", "7", AnswerKind.NUMBER, dataset="mine")
SHOWN = Demonstration(OWN, "It is said.", "seven", "task_reasoning")
CHAIN = KeptChain("q", "order", "acoustic_qa", (1, 2), (3, 4, 5), (), "", 1, "t/q/0", 0, "base", 0, 1)


class Bench:
    """Takes the trainer's place: remembers what it was given."""

    def __init__(self) -> None:
        self.trained: list[SftExample] = []

    def reset_optimizer(self, *_: Any) -> None:
        pass

    def sft_step(self, examples: Sequence[SftExample]) -> SimpleNamespace:
        self.trained += examples
        return SimpleNamespace(metrics={"loss": 1.0})


def context_of(
    folder: Path, questions: Questions, stage: str, chains_of: str = ""
) -> tuple[Any, Bench, io.StringIO, PromptBuilder]:
    said, bench, config = io.StringIO(), Bench(), ExperimentConfig()
    parts = object.__new__(Parts)
    parts.config, parts.trainer, parts._prompts = config, bench, {}  # type: ignore[assignment]
    parts.builder = PromptBuilder(train_tokenizer(SAMPLE_TEXT, 320), random_config(320))
    parts.progress = ProgressView(Console(file=said, width=1000))
    parts.observer = Nobody()
    parts.tracker = SimpleNamespace(log=lambda *_: None)  # type: ignore[assignment]
    parts.directory = SimpleNamespace(root=folder)  # type: ignore[assignment]
    parts.publish = lambda version: None  # type: ignore[method-assign]
    start, fine = config.pipeline.cold_start, config.pipeline.refine
    start.steps, start.batch, fine.steps, fine.batch = 4, 4, 4, 4
    results = {}
    if chains_of:
        (folder / chains_of).mkdir()
        (folder / chains_of / "kept.jsonl").write_text(CHAIN.to_json() + "\n")
        results[chains_of] = {"kept": 1}
    context = SimpleNamespace(
        stage=SimpleNamespace(name=stage, iteration=1),
        folder=folder / stage,
        parts=parts,
        questions=questions,
        progress={},
        results=results,
        counts={},
        next_version=lambda: 1,
        keep=lambda *_: None,
        settle=lambda: None,
    )
    return context, bench, said, parts.builder


def data(text_train: Sequence[Question] = (), talks: Sequence[Demonstration] = ()) -> Questions:
    return Questions([], [], {}, {}, text_train=list(text_train), conversations=list(talks))


def test_refinement_without_reasoned_text_trains_on_chains_alone_and_says_so(tmp_path: Path) -> None:
    context, bench, said, _ = context_of(tmp_path, data([OWN]), "t1.refine", "t1.distil")
    report = refine.run(context)
    assert {example.response_ids for example in bench.trained} == {CHAIN.response_ids}
    assert report["sources"] == {"audio_reasoning": 1, "task_reasoning": 0}
    assert "t1.refine: there are no examples of task_reasoning; their share goes to audio_reasoning" in said.getvalue()
    assert "data.conversations" in said.getvalue()


def test_refinement_trains_on_demonstrations_of_a_users_own_reasoning(tmp_path: Path) -> None:
    context, bench, said, builder = context_of(tmp_path, data([OWN], [SHOWN]), "t1.refine", "t1.distil")
    report = refine.run(context)
    assert builder.response("It is said.", "seven") in {example.response_ids for example in bench.trained}
    assert report["sources"] == {"audio_reasoning": 1, "task_reasoning": 1}
    assert "no examples" not in said.getvalue()


def test_reasoned_text_is_generated_questions_and_demonstrations_of_that_source() -> None:
    (made,) = text_questions(1, {"train": 1})["train"]
    talk = dataclasses.replace(SHOWN, source="conversation")
    named_alike = dataclasses.replace(OWN, dataset="text_reasoning")  # a file text_reasoning.jsonl of one's own
    found = reasoned(data([made, OWN, named_alike], [talk, SHOWN]))
    assert found == [Demonstration(made, reasoning_of(made), made.answer, "task_reasoning"), SHOWN]


def test_a_cold_start_names_sources_without_examples_and_demonstrations_without_a_share(tmp_path: Path) -> None:
    talks = [dataclasses.replace(SHOWN, source=source) for source in ("conversation", "audio_reasoning", "riddles")]
    context, bench, said, _ = context_of(tmp_path, data([OWN], talks), "cold_start.sft", "cold_start.chains")
    report = cold_start.run(context)
    assert "no examples of task_reasoning, audio_direct; their share goes to conversation" in said.getvalue()
    assert "demonstrations of riddles are left out" in said.getvalue()
    assert report["sources"] == {"conversation": 1, "audio_reasoning": 2, "riddles": 1}
    assert CHAIN.response_ids in {example.response_ids for example in bench.trained}


def test_a_cold_start_without_any_example_is_refused(tmp_path: Path) -> None:
    context, *_ = context_of(tmp_path, data([OWN]), "cold_start.sft")
    with pytest.raises(RunFailed, match=r"cold_start\.sft: no source with a share has examples"):
        cold_start.run(context)


@given(
    st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 1) | st.just(0.0), min_size=1),
    st.dictionaries(st.sampled_from("abcde"), st.lists(st.integers(), max_size=2)),
)
def test_usable_shares_keep_their_ratios_and_their_sum(shares: dict[str, float], items: dict[str, list[int]]) -> None:
    usable, missing = usable_shares(shares, items)
    assert {name for name, share in shares.items() if share} == set(usable) | set(missing)
    assert all(items.get(name) for name in usable) and not any(items.get(name) for name in missing)
    if usable:
        assert sum(usable.values()) == pytest.approx(sum(shares.values()))
        ratios = [usable[name] / shares[name] for name in usable]
        assert ratios == pytest.approx([ratios[0]] * len(ratios))


def heard(number: int, clip: int) -> Question:
    audio = (AudioRef(f"{clip}.wav", f"{clip:064x}", 1.0),)
    truth = {"events": [{"kind": "dog"}]}
    return Question(
        f"train-{number:05d}", "What?", "dog", AnswerKind.EXACT, audio=audio, task=str(number % 3), truth=truth
    )


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_no_clip_is_both_said_to_be_heard_and_denied(clips: list[int], seed: int) -> None:
    questions = [heard(number, clip) for number, clip in enumerate(clips)]
    config = ColdStartConfig(hearing_prompts=6, careless_prompts=6, silent_prompts=6)
    asked, careless, silent = asked_about_hearing(questions, config, seed)
    taken = {clip.sha256 for prompt in asked for clip in prompt.clips}
    denied = {clip.sha256 for prompt in [*careless, *silent] for clip in prompt.clips}
    assert asked and not taken & denied
    assert not {prompt_digest(p) for p in asked} & {prompt_digest(p) for p in [*careless, *silent]}
    assert (taken | denied) <= {f"{clip:064x}" for clip in clips}
    if len(set(clips)) > 6:
        assert careless and silent


def test_none_is_asked_for_where_none_are_wanted() -> None:
    config = ColdStartConfig(hearing_prompts=0, careless_prompts=3, silent_prompts=0)
    asked, careless, silent = asked_about_hearing([heard(i, i) for i in range(4)], config, 0)
    assert (asked, len(careless), silent) == ([], 3, [])
