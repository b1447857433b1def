"""The keywords that the methods take, typed: a misspelt one fails type checkers, and at run time names the right word.

What LiteLLM takes is listed by name, for LiteLLM is not imported here. A keyword that is near no known one is passed
on: providers have parameters that nobody lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from blueprint_llm.config.problems import nearest
from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.types import ChatMessage, ChatRequest, ContextPart, Plan

if TYPE_CHECKING:
    from pathlib import Path

    from blueprint_llm.adapters import Adapter
    from blueprint_llm.credentials import CredentialsManager
    from blueprint_llm.events import OnEvent

Message = ChatMessage | Mapping[str, Any]
Request = ChatRequest | Mapping[str, Any] | Sequence[Message] | None
NEAR = 0.85  # how alike a misspelt keyword is to the one that was meant: `max_new_tokens` is no `max_tokens`


class CompletionKeywords(TypedDict, total=False):
    """What LiteLLM's `completion` takes beside `model`, `messages` and `stream`, which says what comes back."""

    # What is sent to providers.
    temperature: float | None
    max_tokens: int | None
    max_completion_tokens: int | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    n: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    stream_options: Mapping[str, Any] | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    logit_bias: Mapping[str, float] | None
    logprobs: bool | None
    top_logprobs: int | None
    user: str | None
    response_format: Mapping[str, Any] | type | None
    tools: Sequence[Any] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    functions: Sequence[Any] | None
    function_call: str | Mapping[str, Any] | None
    reasoning_effort: str | Mapping[str, Any] | None
    reasoning: Mapping[str, Any] | None
    thinking: Mapping[str, Any] | None
    verbosity: str | None
    modalities: Sequence[str] | None
    audio: Mapping[str, Any] | None
    prediction: Mapping[str, Any] | None
    web_search_options: Mapping[str, Any] | None
    include_server_side_tool_invocations: bool | None
    safety_identifier: str | None
    service_tier: str | None
    store: bool | None
    prompt_cache_key: str | None
    prompt_cache_retention: str | None
    safety_settings: Sequence[Any] | None
    metadata: Mapping[str, Any] | None
    extra_body: Mapping[str, Any] | None
    extra_headers: Mapping[str, str] | None
    extra_query: Mapping[str, Any] | None
    headers: Mapping[str, str] | None
    # Where it goes and as whom.
    api_key: str | None
    api_base: str | None
    base_url: str | None
    api_version: str | None
    api_type: str | None
    organization: str | None
    custom_llm_provider: str | None
    deployment_id: str | None
    litellm_credential_name: str | None
    azure_ad_token: str | None
    azure_ad_token_provider: Callable[[], str] | None
    tenant_id: str | None
    client_id: str | None
    client_secret: str | None
    region_name: str | None
    aws_access_key_id: str | None
    aws_secret_access_key: str | None
    aws_session_token: str | None
    aws_region_name: str | None
    aws_session_name: str | None
    aws_profile_name: str | None
    aws_role_name: str | None
    aws_web_identity_token: str | None
    aws_bedrock_runtime_endpoint: str | None
    vertex_project: str | None
    vertex_location: str | None
    vertex_credentials: str | Mapping[str, Any] | None
    watsonx_region_name: str | None
    # How LiteLLM goes about it.
    timeout: Any
    request_timeout: float | None
    stream_timeout: float | None
    num_retries: int | None
    max_retries: int | None
    fallbacks: Sequence[Any] | None
    context_window_fallback_dict: Mapping[str, str] | None
    model_list: Sequence[Any] | None
    drop_params: bool | None
    additional_drop_params: Sequence[str] | None
    allowed_openai_params: Sequence[str] | None
    caching: bool | None
    ttl: float | None
    tags: Sequence[str] | None
    guardrails: Sequence[Any] | None
    client: Any
    shared_session: Any
    ssl_verify: bool | str | None
    logger_fn: Callable[..., Any] | None
    verbose: bool | None
    base_model: str | None
    model_info: Mapping[str, Any] | None
    input_cost_per_token: float | None
    output_cost_per_token: float | None
    mock_response: Any
    mock_tool_calls: Any
    mock_timeout: bool | None
    mock_delay: float | None
    litellm_call_id: str | None
    litellm_trace_id: str | None
    litellm_session_id: str | None
    litellm_metadata: Mapping[str, Any] | None
    enable_json_schema_validation: bool | None
    supports_system_message: bool | None
    ensure_alternating_roles: bool | None
    merge_reasoning_content_in_choices: bool | None
    use_litellm_proxy: bool | None


class AskKeywords(CompletionKeywords, total=False):
    """What `generate` takes beside its prompt: `ChatRequest`'s fields and LiteLLM's parameters."""

    stream: bool | None
    model: str | None
    provider: str | None
    task_type: str | None
    session: str | None
    project: str | None
    deadline_s: float | None
    cache: bool | None
    cache_ttl_s: float | None
    fallback: bool
    check_answer: bool
    as_written: bool
    context: Sequence[ContextPart]
    params: Mapping[str, Any]


class ChatKeywords(AskKeywords, total=False):
    """What `chat`, `stream`, `run` and `explain` take."""

    messages: Sequence[Message]


class GenerateKeywords(AskKeywords, total=False):
    """What `generate` takes."""

    prompt: str
    system: str | None


class PlanKeywords(TypedDict, total=False):
    """What `planning_mode` takes: `PlanningContext`'s fields."""

    goal: str
    requirements: Sequence[str]
    constraints: Sequence[str]
    previous_plans: Sequence[Plan | Mapping[str, Any]]
    codebase: str | Path | Sequence[str | Path] | None


class ClientKeywords(TypedDict, total=False):
    """What a client takes beside its configuration."""

    credentials_manager: CredentialsManager | None
    fallback_chain: Sequence[str] | None
    approver: Callable[..., Any] | None
    on_event: OnEvent | None
    project: str | None
    session: str | None
    adapters: Mapping[str, Adapter] | None


class RouterKeywords(TypedDict, total=False):
    """What LiteLLM's `Router` takes beside `model_list`."""

    assistants_config: Any
    search_tools: Sequence[Any] | None
    guardrail_list: Sequence[Any] | None
    redis_url: str | None
    redis_host: str | None
    redis_port: int | None
    redis_password: str | None
    redis_db: int | None
    cache_responses: bool | None
    cache_kwargs: Mapping[str, Any]
    caching_groups: Sequence[Any] | None
    client_ttl: int
    polling_interval: float | None
    default_priority: int | None
    num_retries: int | None
    max_fallbacks: int | None
    timeout: float | None
    stream_timeout: float | None
    default_litellm_params: Mapping[str, Any] | None
    default_max_parallel_requests: int | None
    set_verbose: bool
    debug_level: Literal["DEBUG", "INFO"]
    default_fallbacks: Sequence[str] | None
    fallbacks: Sequence[Any]
    context_window_fallbacks: Sequence[Any]
    content_policy_fallbacks: Sequence[Any]
    model_group_alias: Mapping[str, Any] | None
    enable_pre_call_checks: bool
    enable_tag_filtering: bool
    tag_filtering_match_any: bool
    tag_routing_prefix: str
    plugins: Sequence[Any] | None
    retry_after: int
    retry_policy: Any
    model_group_retry_policy: Mapping[str, Any]
    allowed_fails: int | None
    allowed_fails_policy: Any
    cooldown_time: float | None
    disable_cooldowns: bool | None
    fallback_on_unsupported_params: bool
    routing_strategy: str
    optional_pre_call_checks: Sequence[str] | None
    routing_strategy_args: Mapping[str, Any]
    routing_groups: Sequence[Any] | None
    provider_budget_config: Mapping[str, Any] | None
    alerting_config: Any
    router_general_settings: Any
    deployment_affinity_ttl_seconds: int
    model_group_affinity_config: Mapping[str, Sequence[str]] | None
    ignore_invalid_deployments: bool
    enable_health_check_routing: bool
    health_check_staleness_threshold: int | None
    health_check_ignore_transient_errors: bool
    background_health_check_model_groups: Sequence[str] | None
    enable_weighted_failover: bool
    enable_mid_stream_fallback_continuation: bool
    fallback_access_check: Any
    fallback_budget_check: Any
    auto_router_capability_limit: Any
    session_affinity_repin_on_failover: bool


# LiteLLM's names that nobody types and that look like a misspelt other; so do its two hundred prices.
ALIKE = frozenset({"s3_access_key_id", "s3_secret_access_key", "s3_region_name"})
PRICE = "_cost_per_"
CHAT = ChatKeywords.__optional_keys__ | ALIKE
RUN = CHAT | {"on_chunk"}
GENERATE = GenerateKeywords.__optional_keys__ | ALIKE | {"messages"}
PLAN = PlanKeywords.__optional_keys__
ROUTER = RouterKeywords.__optional_keys__ | {"model_list", "blueprint"}


def refuse_misspelt(given: Iterable[str], known: Iterable[str]) -> None:
    """Pass what is known or near nothing. Raises InvalidRequestError for a near miss, naming the right word."""
    names = frozenset(known)
    for name in given:
        if name in names or PRICE in name:
            continue
        # In a short word two letters that changed places look like little: `toosl`, `sede`.
        swapped = (each for each in sorted(names) if sorted(each) == sorted(name))
        if meant := nearest(name, names, cutoff=NEAR) or next(swapped, None):
            own = f"if {name!r} is a provider's own parameter, give it in params={{...}}"
            raise InvalidRequestError(f"unknown keyword {name!r}, did you mean {meant!r}? {own}")
