"""Rewards that ask a server: an LLM judge, or a scoring service of your own by URL.

Neighbours: the reward service runs `runner.EndpointRunner` beside the sandbox. Invariants: trusted code, so not sandboxed; what
a server says is not trusted: every answer is bounded, checked, and an outcome with a reason when it is of no use.
"""
