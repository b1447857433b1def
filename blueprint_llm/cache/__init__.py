"""Answers that were given before: keys that cannot lie, entries that prove themselves, one call for many askers.

The cache stands above LiteLLM, whose own hits across accounts and stores what was cut short. Nothing of it may fail a
call: a store in trouble is left alone for a while and said so once.
"""

from blueprint_llm.cache.entry import Entry, Seal, storable
from blueprint_llm.cache.hints import with_breakpoints
from blueprint_llm.cache.key import Facts, key_of, namespace_of
from blueprint_llm.cache.manager import CacheManager
from blueprint_llm.cache.memory import MemoryCache, NoCache
from blueprint_llm.cache.stores import CacheStore, open_store

__all__ = [
    "CacheManager",
    "CacheStore",
    "Entry",
    "Facts",
    "MemoryCache",
    "NoCache",
    "Seal",
    "key_of",
    "namespace_of",
    "open_store",
    "storable",
    "with_breakpoints",
]
