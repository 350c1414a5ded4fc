"""The reward side's one exception.

Neighbours: raised by the registry, the composition and the scoring service; `orchestrator` shows it to the user.
Invariant: it reports a mistake in the set-up (unknown name, bad parameter, sandbox that cannot start). A score that could
not be computed for one sample is no exception: it is `Verdict.invalid`.
"""


class RewardError(Exception):
    """Says what happened, where, and what to do."""
