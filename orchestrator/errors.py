"""Errors a user of the orchestrator sees: what happened, where, what to do.

Neighbours: everything in `orchestrator`; the CLI prints their message and exits 2 (nothing started) or 1 (a run failed).
"""


class MgrdError(Exception):
    """Base of all errors whose message is meant for a user."""


class ConfigError(MgrdError):
    """A configuration that can't be run: unknown key, value out of range, plan that does not fit."""


class PreflightError(MgrdError):
    """The place can't take the run: directory, memory, port, a second run in the same directory."""


class NotNow(PreflightError):
    """The place has no room at the moment: memory is short, or another process holds the directory. Later it may."""


class RunFailed(MgrdError):
    """A run that had started could not go on; names the stage and the cause."""


class RunPaused(MgrdError):
    """A run stopped at a point from which it can go on, waiting for a person: names what must be mended."""
