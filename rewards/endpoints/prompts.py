"""What a judge is asked: templates as data, one sample in, one message out.

Neighbours: `judging` sends the message; `scale` reads the answer. Invariants: pure but for reading the shipped files; a shipped
template is the one whose digest stands here, so a reward's version covers its words; what the graded model wrote stands between
two lines that it cannot have known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards.endpoints.scale import Level
from rewards.errors import RewardError
from rewards.messages import Sample

if TYPE_CHECKING:
    from jinja2 import Template

FOLDER = Path(__file__).parent / "templates"
DIGESTS = {  # sha256 of the shipped templates: edit a file, and the versions of the judges that use it change with this
    "answer_form": "ce274b1a2beecedfe935c8cd3b7b5ac8994128a95c3b80ee77e52e376b303073",
    "default": "16d55d4fa7939a7ca39c07eadbdd49fd143de168d9cff0d63223756a30b13dc0",
    "rubric": "73b97a3b2792d1c611d0a39bb0bee9b0229c0c22a75a3319531f42948337527c",
}
SHIPPED = ("default", "rubric")
MAX_FIELD = 24_000  # characters of one field that a judge is shown; of longer ones the middle is left out


def render(template: str, sample: Sample, levels: Sequence[Level], form: str, *, with_reasoning: bool = False) -> str:
    """The message to the judge. template: name of a shipped one, or jinja text with the same variables.

    Raises ValueError for a sample that can't be judged with it, RewardError for a template that can't be used.
    """
    if template == "rubric" and not sample.rubric:
        raise ValueError("the question has no rubric to judge by")
    if not sample.reference and not sample.rubric:
        raise ValueError("the question has neither a reference answer nor a rubric")
    fields: dict[str, Any] = {
        "history": [{"role": turn["role"], "text": _shortened(turn["text"])} for turn in sample.history],
        "question": _shortened(sample.question["prompt"]),
        "choices": list(sample.question.get("choices") or ()),
        "reference": _shortened(sample.reference),
        "rubric": _shortened(sample.rubric),
        "reasoning": _shortened(sample.reasoning) if with_reasoning else "",
        "reply": _shortened(sample.reply),
    }
    fence = f"=== {hashlib.sha256(repr(sorted(fields.items())).encode()).hexdigest()[:20]} ==="
    from jinja2 import TemplateError

    try:
        return (
            compiled(template)
            .render(
                fields,
                fence=fence,
                form=form,
                levels=levels,
                labels=", ".join(level.label for level in levels),
            )
            .strip()
        )
    except TemplateError as error:
        raise RewardError(f"the judge's prompt can't be filled in: {error}") from error


@lru_cache(maxsize=64)
def compiled(template: str) -> Template:
    """Raises RewardError for an unknown name, an edited shipped file, or text that is no template."""
    from jinja2 import DictLoader, StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if not is_inline(template) and template not in SHIPPED:
        raise RewardError(
            f"no judge prompt {template!r}; give one of {', '.join(SHIPPED)}, or a jinja text with {{{{ reply }}}}"
        )
    environment = ImmutableSandboxedEnvironment(
        loader=DictLoader({name: shipped_text(name) for name in DIGESTS}),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    try:
        return environment.from_string(template if is_inline(template) else shipped_text(template))
    except TemplateError as error:
        raise RewardError(f"the judge's prompt is no jinja template: {error}") from error


def is_inline(template: str) -> bool:
    return "{{" in template


def shipped_text(name: str) -> str:
    """Raises RewardError when the file is not the one this version was made with."""
    text = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    if hashlib.sha256(text.encode()).hexdigest() != DIGESTS[name]:
        raise RewardError(
            f"the judge prompt {name}.jinja was edited; pass your own text as the parameter `prompt` instead"
        )
    return text


def _shortened(text: str) -> str:
    half = MAX_FIELD // 2
    if len(text) <= MAX_FIELD:
        return text
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"
