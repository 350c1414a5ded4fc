"""Self-distillation and pair mining: which of the model's own responses are worth learning from.

Neighbours: `stages` sample and score the responses, `actor` trains on what is kept. Invariants: pure, no I/O; whatever goes in is
kept or counted under the reason for which it went; what is kept says which model made it.
"""
