"""LiteLLM itself, with its calling functions and its Router guarded: `from blueprint_llm import litellm`."""

import sys
from typing import TYPE_CHECKING, Any

from blueprint_llm.compat import Beside

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from blueprint_llm.engine.keywords import LiteLLMKeywords, Message

    def completion(model: str, messages: Sequence[Message] = (), **keywords: Unpack[LiteLLMKeywords]) -> Any:
        """Ask for a completion: LiteLLM's signature and objects."""

    async def acompletion(model: str, messages: Sequence[Message] = (), **keywords: Unpack[LiteLLMKeywords]) -> Any:
        """Ask for a completion: LiteLLM's signature and objects."""


def __getattr__(name: str) -> Any:
    """Stand for LiteLLM's names where types are checked; at run time the class of this module answers."""
    raise AttributeError(name)


sys.modules[__name__].__class__ = Beside
