"""The shipped reward functions; each module registers its own.

Neighbours: `rewards.registry` imports them by name, in the service and in every scoring process.
Invariant: importing one loads the standard library only; what else a function needs is imported on its first call, or by its
module's `prepare_scoring`, which a scoring process calls on loading.
"""
