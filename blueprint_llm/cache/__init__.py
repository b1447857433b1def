"""Answers that were given before: keys that cannot lie, entries that lose nothing, one call for many askers.

The cache stands above LiteLLM, whose own hits across accounts and stores what was cut short. Nothing of it may fail a
call: a store in trouble is a cache that is empty.
"""

from blueprint_llm.cache.entry import Entry, Facts, key_of, namespace_of, storable
from blueprint_llm.cache.manager import CacheManager, Flight, open_store
from blueprint_llm.cache.prompt_caching import with_breakpoints
from blueprint_llm.cache.store import CacheStore, MemoryCache, NoCache

__all__ = [
    "CacheManager",
    "CacheStore",
    "Entry",
    "Facts",
    "Flight",
    "MemoryCache",
    "NoCache",
    "key_of",
    "namespace_of",
    "open_store",
    "storable",
    "with_breakpoints",
]
