"""Trajectories in, verdicts out: reward functions, their sandbox, their sum, the service.

Neighbours: `rollout` makes the trajectories, `actor` and `orchestrator` read the verdicts; nothing here imports from those two.
Invariants: public names are handed on lazily, so that `import rewards` (and with it a scoring process) loads no Ray and no
torch; a failure is never a score of 0.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bundle": ["Bundle"],
        "composition": ["applicable", "check_spec", "compose", "modality_of"],
        "errors": ["RewardError"],
        "functions.perceptions": ["Claim", "ClaimKind", "stated_claims", "true_share"],
        "functions.references": ["reference_faults"],
        "messages": ["Clip", "JointTerm", "RewardSpec", "RewardTerm", "Sample", "Verdict"],
        "published": ["Published", "PublishedStore"],
        "parse": ["make_sample", "split_response"],
        "registry": ["RewardFunction", "get", "registered", "reward"],
        "scorer": ["ResolvedReward", "Scorer", "resolve_reward"],
        "service": ["RewardService"],
        "stored": ["TRAJECTORY_SUFFIX", "StoredTrajectory", "read_stored", "write_stored"],
    },
)
