"""LiteLLM itself, with its calling functions and its Router guarded: `from blueprint_llm import litellm`."""

import sys
from typing import TYPE_CHECKING, Any

from blueprint_llm.compat import Beside

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from typing import Literal, Protocol, TypeVar, Unpack, overload

    from litellm import *  # noqa: F403 - what is not guarded is LiteLLM's, with its types
    from litellm import CustomStreamWrapper, ModelResponse
    from litellm import Router as _Router  # noqa: TID251 - its type only

    from blueprint_llm.engine.keywords import CompletionKeywords, Message, RouterKeywords

    Whole_co = TypeVar("Whole_co", covariant=True)
    Stream_co = TypeVar("Stream_co", covariant=True)

    class _Completion(Protocol[Whole_co, Stream_co]):
        """Ask for a completion: LiteLLM's signature and objects."""

        @overload
        def __call__(
            self,
            model: str,
            messages: Sequence[Message] = (),
            *,
            stream: Literal[False] | None = None,
            **keywords: Unpack[CompletionKeywords],
        ) -> Whole_co: ...
        @overload
        def __call__(
            self,
            model: str,
            messages: Sequence[Message] = (),
            *,
            stream: Literal[True],
            **keywords: Unpack[CompletionKeywords],
        ) -> Stream_co: ...
        @overload
        def __call__(
            self,
            model: str,
            messages: Sequence[Message] = (),
            *,
            stream: bool | None,
            **keywords: Unpack[CompletionKeywords],
        ) -> Whole_co | Stream_co: ...

    completion: _Completion[ModelResponse, CustomStreamWrapper]
    acompletion: _Completion[Coroutine[Any, Any, ModelResponse], Coroutine[Any, Any, CustomStreamWrapper]]

    class Router(_Router):  # type: ignore[misc] # LiteLLM is not followed: too huge
        """LiteLLM's Router, made with our block beside its own arguments."""

        def __init__(
            self,
            model_list: Any = None,
            *args: Any,
            blueprint: Any = None,
            **keywords: Unpack[RouterKeywords],
        ) -> None: ...


def __getattr__(name: str) -> Any:
    """Stand for LiteLLM's names where types are checked; at run time the class of this module answers."""
    raise AttributeError(name)


sys.modules[__name__].__class__ = Beside
