"""`mgrd submit`, `ps`, `show`, …: the service from a shell, one command a file.

Neighbours: `orchestrator.cli` hangs `add_commands` in, `service.client` does the work. Invariants: nothing of the service is loaded before
a command runs; every command answers in JSON, too; tables go to standard output, everything else to standard error.
"""
