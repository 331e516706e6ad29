"""Questions to servers on this machine."""

import functools

import httpx


@functools.cache
def http() -> httpx.Client:
    """One client for all of them: each that is made reads the certificates of the world, and polling makes many."""
    return httpx.Client(timeout=60, trust_env=False)
