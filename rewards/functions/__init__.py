"""The shipped reward functions; each module registers its own.

Neighbours: `rewards.registry` imports them by name, in the service and in every scoring process.
Invariant: standard library only, so that a scoring process starts in a fraction of a second.
"""
