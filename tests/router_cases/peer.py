"""Prints what LiteLLM's own Router makes of every case, as one JSON object; the server's address is on stdin.

Run as a process of its own: a Router registers callbacks in LiteLLM's module.
"""

import asyncio
import json
import logging
import sys

from cases import CASES, arguments_of, listed, outcomes
from litellm import Router  # noqa: TID251 - the peer that ours is compared with


async def main():
    """All cases at the same time: LiteLLM waits before a retry."""
    logging.disable(logging.CRITICAL)
    url = sys.stdin.read().strip()
    routers = {name: Router(**arguments_of(name, url)) for name in CASES}
    found = await asyncio.gather(*(outcomes(router, name) for name, router in routers.items()))
    said = {name: [texts, listed(routers[name], name)] for name, texts in zip(CASES, found, strict=True)}
    sys.stdout.write("\n" + json.dumps(said) + "\n")


asyncio.run(main())
