"""The parameters of LiteLLM's functions in order, for whoever looks at a signature or calls by position.

A test holds them against the installed LiteLLM's.
"""

from __future__ import annotations

from inspect import Parameter, Signature


def _names(text: str) -> list[str]:
    return text.split()


COMPLETION = _names(
    "model messages timeout temperature top_p n stream stream_options stop max_completion_tokens max_tokens modalities "
    "prediction audio presence_penalty frequency_penalty logit_bias user reasoning_effort verbosity response_format "
    "seed tools tool_choice logprobs top_logprobs parallel_tool_calls web_search_options "
    "include_server_side_tool_invocations deployment_id extra_headers safety_identifier service_tier store "
    "prompt_cache_key functions function_call base_url api_version api_key model_list thinking shared_session "
    "enable_json_schema_validation"
)
ACOMPLETION = _names(
    "model messages functions function_call timeout temperature top_p n stream stream_options stop max_tokens "
    "max_completion_tokens modalities prediction audio presence_penalty frequency_penalty logit_bias user "
    "response_format seed tools tool_choice parallel_tool_calls logprobs top_logprobs deployment_id reasoning_effort "
    "verbosity safety_identifier service_tier store prompt_cache_key base_url api_version api_key model_list "
    "extra_headers thinking web_search_options include_server_side_tool_invocations shared_session "
    "enable_json_schema_validation"
)


def signature_of(names: list[str], *, required: int = 1) -> Signature:
    """The signature with these parameters, all but the first `required` with a default, and any other keyword."""
    first = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names[:required]]
    given = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=None) for name in names[required:]]
    return Signature([*first, *given, Parameter("kwargs", Parameter.VAR_KEYWORD)])
