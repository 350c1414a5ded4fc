"""Self-cognition questions on the clips of audio questions (Step-Audio-R1, section 6.3), and good replies to them.

Neighbours: `wordings` has the texts; stages sample these prompts, count denials, mine pairs from the replies. Invariants: pure; one
prompt a clip; what a clip is asked depends on seed, split and the question's id alone, not on what else is asked; an id names the
wording, too, so that a clip asked in two wordings makes two questions.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.datasets.acoustic_qa.chains import with_article
from orchestrator.datasets.demonstrations import AUDIO_DIRECT, CONVERSATION, Demonstration
from orchestrator.datasets.hearing_prompts.wordings import SILENT_DENIALS, WORDINGS
from orchestrator.seeds import derive
from rollout.messages import AnswerKind, Question

NAME = "hearing_prompts"
TASK = "self_cognition"


def hearing_prompts(questions: Sequence[Question], seed: int, split: str) -> list[Question]:
    """Open questions about hearing, one for every clip of `questions` that has a truth with events.

    Questions without audio, with several clips, with earlier turns or without events are passed over; of several about one clip the
    first counts. The answer is the kind of the first event; truth, clip and domain are kept. split: `train` or `held_out`, whose
    wordings are taken. An id is `{split}-hearing-{id of the question without its split}-{number of the wording}`. Raises ValueError
    for another split.
    """
    if split not in WORDINGS:
        raise ValueError(f"hearing prompts have the splits {', '.join(WORDINGS)}, not {split!r}")
    out: list[Question] = []
    asked: set[str] = set()
    for question in questions:
        events = question.truth.get("events")
        if question.history or len(question.audio) != 1 or not events:
            continue
        clip = question.audio[0]
        if (clip.sha256 or clip.path) in asked:
            continue
        asked.add(clip.sha256 or clip.path)
        wordings = WORDINGS[split]
        wording = derive(seed, NAME, split, question.id) % len(wordings)
        out.append(
            Question(
                id=f"{split}-hearing-{question.id.removeprefix(f'{split}-')}-{wording:02d}",
                prompt=wordings[wording],
                answer=events[0]["kind"],
                answer_kind=AnswerKind.EXACT,
                audio=question.audio,
                domain=question.domain,
                task=TASK,
                split=split,
                source=question.source,
                truth=question.truth,
                dataset=NAME,
            )
        )
    return out


def hearing_demonstrations(prompts: Sequence[Question]) -> list[Demonstration]:
    """Every prompt with a reply that says what is heard, without reasoning."""
    return [Demonstration(prompt, "", reply_of(prompt), AUDIO_DIRECT) for prompt in prompts]


def denying_demonstrations(prompts: Sequence[Question], seed: int) -> list[Demonstration]:
    """Every prompt with a reply that denies hearing: honest where the clip is silent; where it sounds, what conversations written
    by a model of text alone teach, and the origin of the errors that are counted and corrected later."""
    return [
        Demonstration(prompt, "", SILENT_DENIALS[derive(seed, NAME, prompt.id) % len(SILENT_DENIALS)], CONVERSATION)
        for prompt in prompts
    ]


def reply_of(prompt: Question) -> str:
    """What is heard, first event first: `I hear a dog.`"""
    kinds = dict.fromkeys(event["kind"] for event in prompt.truth["events"])
    return f"I hear {', then '.join(with_article(kind) for kind in kinds)}."
