"""The service over HTTP: experiments, sweeps, events, logs, code, tokens, rewards; what `/docs` describes.

Neighbours: `store` holds everything, `intake` checks what comes in, clients and the page are on the other side. Invariant: it answers
and stores; schedulers launch.
"""
