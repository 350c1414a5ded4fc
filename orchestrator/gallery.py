"""A page of sampled trajectories: playable audio, question, think text, answer, verdict by component.

Neighbours: `stages.reinforce` and `stages.evaluate` log it to MLflow. Invariants: one self-contained file, readable without a
network; every text from model or data is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment

from orchestrator.stages.scoring import Scored

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2430}
article{border:1px solid #d5dbe3;border-radius:8px;padding:1rem 1.2rem;margin:1.2rem 0}
pre{white-space:pre-wrap;background:#f4f6f9;padding:.6rem .8rem;border-radius:6px;margin:.4rem 0}
table{border-collapse:collapse}td,th{padding:.15rem .8rem .15rem 0;text-align:left;font-weight:400}
.right{color:#0a6b3d}.wrong{color:#a3231f}.dim{color:#5b6675}
</style><h1>{{ title }}</h1>
{% for item in items %}<article>
<p><strong>{{ item.question.prompt }}</strong>
{% for choice in item.question.choices %}<br><span class="dim">{{ "ABCDEFGHIJ"[loop.index0] }}.</span> {{ choice }}{% endfor %}</p>
{% for sound in item.sounds %}<audio controls preload="none" src="{{ sound }}">audio clip</audio>{% endfor %}
<p class="dim">reasoning</p><pre>{{ item.reasoning or "(none)" }}</pre>
<p>answer <strong class="{{ "right" if item.correct else "wrong" }}">{{ item.reply or "(none)" }}</strong>
<span class="dim">reference {{ item.question.answer }}</span></p>
<table><tr>{% for name, value in item.components %}<th class="dim">{{ name }}</th>{% endfor %}
<th>reward</th><th class="dim">true perceptions</th></tr>
<tr>{% for name, value in item.components %}<td>{{ "%.2f"|format(value) }}</td>{% endfor %}
<td><strong>{{ item.reward }}</strong></td><td>{{ item.claims }}</td></tr></table>
<p class="dim">{{ item.id }} · {{ item.question.domain }} / {{ item.question.task }} · weights version {{ item.version }}</p>
</article>{% endfor %}</html>"""

LARGEST_SOUND_BYTES = 2_000_000  # longer recordings are linked by name only, so that a page stays loadable


def gallery_html(title: str, scored: Sequence[Scored], per_page: int) -> str:
    """Every k-th of `scored`, so that `per_page` items span the batch."""
    stride = max(1, len(scored) // per_page)
    template = Environment(autoescape=True).from_string(PAGE)
    return template.render(title=title, items=[_item(s) for s in list(scored)[::stride][:per_page]])


def _item(s: Scored) -> dict[str, object]:
    return {
        "id": s.trajectory.id,
        "question": s.question,
        "sounds": [uri for ref in s.question.clips if (uri := _data_uri(Path(ref.path)))],
        "reasoning": s.sample.reasoning,
        "reply": s.sample.reply,
        "correct": s.correct,
        "components": sorted(s.verdict.components.items()),
        "reward": f"{s.verdict.score:.2f}" if s.verdict.valid else f"invalid: {s.verdict.reason}",
        "claims": f"{s.true_claims} of {s.stated_claims}" if s.stated_claims else "none stated",
        "version": s.trajectory.version,
    }


def _data_uri(path: Path) -> str:
    if not path.is_file() or path.stat().st_size > LARGEST_SOUND_BYTES:
        return ""
    kind = {".wav": "wav", ".flac": "flac", ".mp3": "mpeg", ".ogg": "ogg"}.get(path.suffix.lower(), "wav")
    return f"data:audio/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
