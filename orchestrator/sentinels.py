"""Does a run of policy updates still learn what it should? Curves in, the first alarm or None out (pure).

Neighbours: `stages.reinforce` asks after every policy update, `sentinel_evidence` shows what an alarm saw, `config.SentinelConfig` has
the thresholds. Invariants: the same records give the same answer; a curve that stays as it was raises no alarm unless its level alone
is one; what came before an alarm that is noted in the records is never looked at again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config.schema import SentinelConfig

ALARM = "alarm"  # key of a record whose policy update raised one
ROUNDING = 1e-9  # relative; a mean of equal values may differ from them by less

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Alarm:
    """name: the sentinel; reason: what it saw, in words; evidence: plain values: `update` that raised it, `metrics` it watches,
    and by metric `now` (mean of the last window), what it was held against (`best`) and the `threshold`."""

    name: str
    reason: str
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric over the policy updates that are looked at; updates[i] logged values[i]. window: values in a mean."""

    metric: str
    updates: tuple[int, ...]
    values: tuple[float, ...]
    window: int

    def __bool__(self) -> bool:
        """Whether there are enough values for one mean."""
        return len(self.values) >= self.window

    @property
    def now(self) -> float:
        """Mean of the last window."""
        return _mean(self.values[-self.window :])

    @property
    def earlier(self) -> list[float]:
        """Means of every window that ended before the last one began; empty when there are fewer than two windows' values."""
        last = len(self.values) - self.window
        return [_mean(self.values[end - self.window : end]) for end in range(self.window, last + 1)]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule saw: the sentence after the curve's name, and the figures behind it."""

    reason: str
    figures: dict[str, Any]


Curves = Callable[[str], Curve]
Rule = Callable[[Curves, SentinelConfig], Finding | None]


@dataclass(frozen=True, slots=True)
class Sentinel:
    """metrics: names of policy-update metrics it watches; keys: of SentinelConfig, all 0 or null turn it off; advice: what to do."""

    name: str
    metrics: tuple[str, ...]
    keys: tuple[str, ...]
    rule: Rule
    advice: str

    def on(self, config: SentinelConfig) -> bool:
        return any(getattr(config, key) for key in self.keys)


def watch(records: Sequence[Record], config: SentinelConfig) -> Alarm | None:
    """The first alarm of a stage's records (`{"update": int, "metrics": {name: value}}`, in order), or None.

    Silent for the first `config.warmup` records, and again after a record that notes an alarm under `ALARM`: a resumed run starts its
    windows anew. A value that is not a finite number alarms at once. A metric that is not logged every time is looked at over the
    records that have it.
    """
    records = since_alarm(records)
    if not records:
        return None
    active = [sentinel for sentinel in SENTINELS if sentinel.on(config)]
    for sentinel in active:
        for metric in sentinel.metrics:
            value = records[-1]["metrics"].get(metric, 0.0)
            if not math.isfinite(value):
                return _alarm(sentinel, records, Finding(f"{metric} is {value}, not a finite number", {}))
    if len(records) < config.warmup:
        return None
    for sentinel in active:
        finding = sentinel.rule(lambda metric: curve(records, metric, config.window), config)
        if finding is not None:
            return _alarm(sentinel, records, finding)
    return None


def since_alarm(records: Sequence[Record]) -> Sequence[Record]:
    """The records after the last one that notes an alarm."""
    noted = [i for i, record in enumerate(records) if record.get(ALARM)]
    return records[noted[-1] + 1 :] if noted else records


def curve(records: Sequence[Record], metric: str, window: int) -> Curve:
    """Finite values only: one that is not has raised its alarm when it came."""
    points = [(r["update"], r["metrics"][metric]) for r in records if math.isfinite(r["metrics"].get(metric, math.nan))]
    return Curve(metric, tuple(u for u, _ in points), tuple(v for _, v in points), window)


def _alarm(sentinel: Sentinel, records: Sequence[Record], finding: Finding) -> Alarm:
    evidence = {
        "update": records[-1]["update"],
        "looked_at": [records[0]["update"], records[-1]["update"]],
        "metrics": list(sentinel.metrics),
        **finding.figures,
        "advice": sentinel.advice,
    }
    return Alarm(sentinel.name, finding.reason, evidence)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _mismatch(curves: Curves, config: SentinelConfig) -> Finding | None:
    limits = zip(MISMATCH, (config.mismatch_max, config.mismatch_kl, config.mismatch_probe), strict=True)
    return next((found for metric, limit in limits if (found := _above(curves(metric), limit, "nats"))), None)


def _invalid(curves: Curves, config: SentinelConfig) -> Finding | None:
    return _above(curves("invalid_share"), config.invalid)


def _truncated(curves: Curves, config: SentinelConfig) -> Finding | None:
    """Above the limit, and no less than at first: a policy that unlearns endless responses is left alone."""
    found = curves("response/truncated")
    if found.earlier and found.now < found.earlier[0]:
        return None
    return _above(found, config.truncated)


def _think_length(curves: Curves, config: SentinelConfig) -> Finding | None:
    return _fallen(curves("think/tokens"), config.think_length, "tokens")


def _entropy(curves: Curves, config: SentinelConfig) -> Finding | None:
    return _fallen(curves("policy/entropy"), config.entropy, "nats")


def _reward_hacking(curves: Curves, config: SentinelConfig) -> Finding | None:
    """Against the windows whose accuracy was that much better, the one with the least reward."""
    accuracy, reward = curves("accuracy"), curves("reward/mean")
    fall, rise = config.accuracy_fall or 0.0, config.reward_rise
    if not fall or not accuracy or accuracy.updates != reward.updates:
        return None
    windows = zip(reward.earlier, accuracy.earlier, strict=True)
    least, then = min(((r, a) for r, a in windows if a - accuracy.now >= fall), default=(math.inf, 0.0))
    if reward.now - least < rise:
        return None
    figures = {
        "accuracy": {"now": accuracy.now, "before": then, "threshold": fall},
        "reward/mean": {"now": reward.now, "before": least, "threshold": rise},
    }
    return Finding(
        f"reward rose from {least:.3f} to {reward.now:.3f} while accuracy fell from {then:.3f} to {accuracy.now:.3f}",
        figures,
    )


def _repeated(curves: Curves, config: SentinelConfig) -> Finding | None:
    return next((found for metric in REPEATED if (found := _spread(curves(metric), config.repeated))), None)


def _copied(curves: Curves, config: SentinelConfig) -> Finding | None:
    return _spread(curves("think/copied_share"), config.copied)


def _above(found: Curve, limit: float | None, unit: str = "") -> Finding | None:
    """The mean is above a limit."""
    if not limit or not found or found.now <= limit * (1 + ROUNDING):
        return None
    figures = {found.metric: {"now": found.now, "threshold": limit}}
    return Finding(f"{found.metric} is {_figure(found.now, unit)}, above {_figure(limit, unit)}", figures)


def _fallen(found: Curve, share: float | None, unit: str) -> Finding | None:
    """The mean is at most a share of the highest earlier one."""
    best = max(found.earlier, default=0.0)
    if not share or best <= 0 or found.now > share * best:
        return None
    figures = {found.metric: {"now": found.now, "best": best, "threshold": share}}
    left = f"{found.now / best:.0%} of it (limit {share:.0%})"
    return Finding(f"{found.metric} fell from {_figure(best, unit)} to {_figure(found.now, unit)}, {left}", figures)


def _spread(found: Curve, limit: float | None) -> Finding | None:
    """Of the share that was free of it at best, more than `limit` now is not: where some repeat by nature, that many more must."""
    if not limit or not found:
        return None
    best = min(found.earlier, default=0.0)
    bound = best + limit * (1 - best)
    if found.now <= bound * (1 + ROUNDING) or found.now <= best * (1 + ROUNDING):
        return None
    figures = {found.metric: {"now": found.now, "best": best, "threshold": bound}}
    return Finding(f"{found.metric} is {found.now:.3f}, above {bound:.3f} (it was {best:.3f} at best)", figures)


def _figure(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}".strip()


MISMATCH = ("policy/mismatch_max", "policy/mismatch_kl", "probe/max_abs_diff")
REPEATED = ("responses/repeated_share", "responses/stuck_share")

# In the order of alarms: what could be the cause of the others comes first.
SENTINELS: tuple[Sentinel, ...] = (
    Sentinel(
        "mismatch",
        MISMATCH,
        ("mismatch_max", "mismatch_kl", "mismatch_probe"),
        _mismatch,
        "Engine and trainer disagree about the policy, so updates are no longer on-policy. Compare dtypes, the temperature and the "
        "weights version of both sides; bf16 wants wider limits than fp32.",
    ),
    Sentinel(
        "invalid",
        ("invalid_share",),
        ("invalid",),
        _invalid,
        "Find the function in reward/NAME/invalid_share, try it with `mgrd rewards score` on the run's stored trajectories and mend it.",
    ),
    Sentinel(
        "truncated",
        ("response/truncated", "response/tokens"),
        ("truncated",),
        _truncated,
        "Responses run into rollout.max_new_tokens. Raise it, add the repetition or think_length reward, or lower the learning rate.",
    ),
    Sentinel(
        "think_length",
        ("think/tokens", "think/present"),
        ("think_length",),
        _think_length,
        "The policy stops reasoning. Give the think_present reward weight on audio questions (0.2 in the paper), or add think_length.",
    ),
    Sentinel(
        "entropy",
        ("policy/entropy", "reward/mixed_questions"),
        ("entropy",),
        _entropy,
        "The policy samples one response only and explores no more. Lower actor.actor_optim.lr, give actor.ppo.entropy_coef or "
        "actor.ppo.kl_coef weight, raise actor.ppo.clip_high, or select harder questions.",
    ),
    Sentinel(
        "reward_without_accuracy",
        ("reward/mean", "accuracy"),
        ("accuracy_fall",),
        _reward_hacking,
        "The policy earns reward without being right. Read the sampled trajectories, see which reward/NAME rose, and lower its weight or "
        "tie it to the answer by reward.joint.",
    ),
    Sentinel(
        "repeated",
        REPEATED,
        ("repeated",),
        _repeated,
        "Many responses say the same, whatever was asked. Read the sampled trajectories; go back to an earlier checkpoint with a lower "
        "learning rate, or add a reward that looks at the reasoning (grounding, consistency).",
    ),
    Sentinel(
        "copied",
        ("think/copied_share",),
        ("copied",),
        _copied,
        "The reasoning only copies the question or the words of the clip. Add the grounding reward, or distil acoustic chains again.",
    ),
)


def watched() -> Iterator[str]:
    """Every metric that some sentinel looks at."""
    for sentinel in SENTINELS:
        yield from sentinel.metrics


__all__ = ["ALARM", "SENTINELS", "Alarm", "Curve", "Sentinel", "curve", "since_alarm", "watch", "watched"]
