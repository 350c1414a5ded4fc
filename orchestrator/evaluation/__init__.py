"""Evaluation of any checkpoint, apart from training runs: sample, score, report, promote.

`outcomes` and `statistics` and `report` are pure; `plan` and `chunks` make an evaluation resumable; `session` starts engines and
rewards; `runner` walks through the chunks; `promotion` decides who is champion. `orchestrator.eval_cli` is its command.
"""
