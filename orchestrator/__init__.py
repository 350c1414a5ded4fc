"""mgrd's controller and its service; `from orchestrator import Client, AsyncClient` talks to a service from Python.

Neighbours: `cli` is the command, `service` the service. Invariant: the clients are loaded when they are asked for; `import orchestrator`
loads nothing.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from orchestrator.service.async_client import AsyncClient as AsyncClient
    from orchestrator.service.client import Client as Client

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"service.async_client": ["AsyncClient"], "service.client": ["Client"]},
)
