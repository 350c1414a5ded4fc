"""The page's files: plain HTML, CSS and JavaScript modules that run as they are.

Neighbours: `service.api.page` serves them, they speak to the HTTP API only. Invariants: every text from outside becomes a text node,
never markup; the token lives in the tab's session storage and travels in a header, never in an address.
"""
