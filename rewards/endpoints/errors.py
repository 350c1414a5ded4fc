"""How a call to a server can fail, inside this package: each becomes the reason of an outcome, none leaves it.

Invariant: the text says what happened in words that follow the name of the reward ("judge did not answer within 60 s").
"""


class CallFailed(Exception):
    """One call gave nothing that can be used."""


class EndpointFailed(CallFailed):
    """It speaks against the endpoint as a whole: down, silent, broken or refusing everybody."""


class RequestRefused(CallFailed):
    """The endpoint is alive and does not want this request, or asks for patience."""


class BadRequest(RequestRefused):
    """It refuses what is in the request (400, 413, 422): another one may do."""


class BreakerOpen(CallFailed):
    """The endpoint is being left alone; says why and for how long."""
