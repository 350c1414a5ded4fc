"""Trajectories in, verdicts out: reward functions, their sandbox, their sum, the service.

Neighbours: `rollout` makes the trajectories, `actor` and `orchestrator` read the verdicts; nothing here imports from those two.
Invariants: public names are handed on lazily, so that `import rewards` (and with it a scoring process) loads no Ray and no
torch; a failure is never a score of 0.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules={"lab"},
    submod_attrs={
        "bundle": ["Bundle"],
        "comparison": ["Difference"],
        "cache": ["CacheCounts", "VerdictCache"],
        "composition": ["applicable", "check_spec", "compose", "modality_of"],
        "endpoints.base": ["Endpoint"],
        "endpoints.ledger": ["Cost", "read_costs"],
        "errors": ["RewardError"],
        "functions.perceptions": ["Claim", "ClaimKind", "stated_claims", "true_share"],
        "functions.references": ["reference_faults"],
        "golden": ["GoldenCase", "load_cases"],
        "http": ["create_app", "reward_routes"],
        "http_api": ["HttpSettings", "Refused", "RewardApi"],
        "http_pool": ["ScoringPool"],
        "messages": ["Clip", "JointTerm", "RewardSpec", "RewardTerm", "Sample", "Verdict"],
        "published": ["Published", "PublishedStore"],
        "parse": ["make_sample", "split_response"],
        "registry": ["RewardFunction", "broken_plugins", "get", "registered", "resolve", "reward"],
        "sample_input": ["read_samples"],
        "sandbox_wire": ["Limits"],
        "scorer": ["ResolvedReward", "Scorer", "resolve_reward"],
        "service": ["RewardService"],
        "stored": ["TRAJECTORY_SUFFIX", "StoredTrajectory", "read_stored", "write_stored"],
    },
)
