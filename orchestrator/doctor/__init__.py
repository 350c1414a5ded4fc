"""`mgrd doctor`: what this machine lacks to run experiments or the service, and what to do about it.

Neighbours: `cli` hangs `doctor_command` in. Invariants: nothing is started, changed or downloaded (a probe file in the state folder is
removed again); each check is a function from plain facts to a finding, gathered apart from judged.
"""

from orchestrator.doctor.findings import Finding, Level

__all__ = ["Finding", "Level"]
