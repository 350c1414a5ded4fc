"""The service: experiments of many users on one cluster; queue, scheduler, HTTP, client.

Neighbours: `orchestrator.controller` runs one experiment, everything here decides when and where, and lets people watch.
"""
