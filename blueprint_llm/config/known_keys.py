"""The keys LiteLLM 1.110 knows, so that a misspelt one is noticed without importing it.

A test compares these lists with the installed LiteLLM: it says what to add.
"""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


STRATEGIES = (
    "simple-shuffle",
    "least-busy",
    "usage-based-routing",
    "usage-based-routing-v2",
    "latency-based-routing",
    "cost-based-routing",
    "lar1",
)

TOP_LEVEL = frozenset({"model_list", "router_settings", "litellm_settings", "credential_list", "include", "blueprint"})

PROXY_ONLY = words(
    """general_settings environment_variables guardrails prompts policies policy_attachments mcp_servers mcp_tools
    search_tools sandbox_tools agent_list agents assistant_settings callback_settings files_settings
    finetune_settings default_vertex_config vector_store_registry pass_through_endpoints worker_registry"""
)

# What a Config carries on; the rest of LiteLLM's router settings is accepted and reported as ignored.
ROUTER_USED = words(
    """num_retries max_fallbacks timeout stream_timeout default_litellm_params default_max_parallel_requests
    default_fallbacks fallbacks context_window_fallbacks content_policy_fallbacks model_group_alias retry_after
    retry_policy model_group_retry_policy allowed_fails allowed_fails_policy cooldown_time disable_cooldowns
    routing_strategy routing_strategy_args provider_budget_config enable_pre_call_checks
    enable_tag_filtering tag_filtering_match_any tag_routing_prefix"""
)
ROUTER_IGNORED = words(
    """assistants_config search_tools guardrail_list redis_url redis_host redis_port redis_password redis_db
    cache_responses cache_kwargs caching_groups client_ttl polling_interval default_priority set_verbose
    debug_level plugins optional_pre_call_checks routing_groups alerting_config router_general_settings
    deployment_affinity_ttl_seconds model_group_affinity_config ignore_invalid_deployments
    enable_health_check_routing health_check_staleness_threshold health_check_ignore_transient_errors
    background_health_check_model_groups enable_weighted_failover fallback_access_check fallback_budget_check
    auto_router_capability_limit enable_mid_stream_fallback_continuation fallback_on_unsupported_params
    session_affinity_repin_on_failover"""
)
# Set on LiteLLM's module by its proxy, meant for its Router.
LITELLM_USED = words(
    """num_retries max_fallbacks request_timeout default_fallbacks fallbacks context_window_fallbacks
    content_policy_fallbacks model_group_alias allowed_fails cooldown_time drop_params modify_params
    retry_policy routing_strategy timeout stream_timeout"""
)

# The usual rest of `litellm_settings`: known, so not taken for a misspelt one of the above.
LITELLM_IGNORED = words(
    """callbacks success_callback failure_callback service_callback cache cache_params callback_settings set_verbose
    json_logs guardrails custom_provider_map max_budget budget_duration master_key turn_off_message_logging
    redact_user_api_key_info default_team_settings default_internal_user_params model_group_settings
    upperbound_key_generate_params enable_json_schema_validation store_audit_logs ssl_verify"""
)

ENTRY = frozenset({"model_name", "litellm_params", "model_info", "rpm", "tpm", "blocked"})

INFO = words(
    """id mode base_model db_model tier team_id team_public_model_name access_groups supported_environments
    max_tokens max_input_tokens max_output_tokens litellm_provider health_check_model health_check_timeout
    supports_vision supports_function_calling supports_web_search supports_reasoning"""
)

PARAMS = words(
    """model api_key api_base base_url api_version api_type azure_ad_token azure_ad_token_provider tenant_id client_id
    client_secret azure_scope azure_username azure_password vertex_project vertex_location vertex_credentials
    vertex_ai_project vertex_ai_location vertex_ai_credentials region_name gcs_bucket_name bucket_name
    aws_access_key_id aws_secret_access_key aws_session_token aws_region_name aws_session_name aws_profile_name
    aws_role_name aws_web_identity_token aws_sts_endpoint aws_external_id aws_session_tags
    aws_bedrock_runtime_endpoint aws_bedrock_project_id aws_batch_role_arn s3_bucket_name s3_endpoint_url
    s3_region_name s3_access_key_id s3_secret_access_key s3_encryption_key_id s3_bucket_owner
    s3_output_bucket_name bedrock_tags watsonx_region_name custom_llm_provider tpm rpm itpm otpm timeout
    stream_timeout timeout_by_service_tier stream_timeout_by_service_tier max_retries num_retries drop_params
    additional_drop_params allowed_openai_params organization configurable_clientside_auth_params
    litellm_credential_name provider_affinity_header litellm_trace_id max_file_size_mb default_api_key_tpm_limit
    default_api_key_rpm_limit max_budget budget_duration keepalive_seconds allow_client_keepalive_override
    use_in_pass_through use_litellm_proxy use_chat_completions_api use_xai_oauth fireworks_forward_user_id
    merge_reasoning_content_in_choices model_info mock_response tags tag_regex weight order
    max_parallel_requests output_vector_size tiered_pricing vector_store_id milvus_text_field milvus_db_name
    milvus_partition_names valkey_host valkey_port valkey_password valkey_ssl valkey_text_field
    valkey_embedding_field anthropic_federation_rule_id anthropic_organization_id anthropic_service_account_id
    anthropic_federation_workspace_id anthropic_identity_token_file anthropic_identity_token
    anthropic_identity_source anthropic_issuer_url anthropic_issuer_subject anthropic_issuer_audience
    anthropic_issuer_ttl_seconds anthropic_issuer_signing_key_ref anthropic_keycloak_token_url
    anthropic_keycloak_client_id anthropic_keycloak_auth_method anthropic_keycloak_client_secret_ref
    anthropic_keycloak_scope anthropic_disable_workload_identity_federation openai_identity_provider_id
    openai_service_account_id openai_identity_token_file regional_processing_uplift_multiplier_eu
    regional_processing_uplift_multiplier_us regional_endpoint_uplift_multiplier auto_router_config_path
    auto_router_config auto_router_default_model auto_router_embedding_model auto_router_max_input_chars
    auto_router_routing_compression auto_router_model_compression complexity_router_config
    complexity_router_default_model adaptive_router_default_model adaptive_router_config quality_router_config
    quality_router_default_model messages temperature top_p top_k n stream stream_options stop
    max_completion_tokens max_tokens modalities prediction audio presence_penalty frequency_penalty logit_bias
    user reasoning_effort verbosity response_format seed tools tool_choice logprobs top_logprobs
    parallel_tool_calls web_search_options include_server_side_tool_invocations deployment_id extra_headers
    extra_body default_headers headers safety_identifier service_tier store prompt_cache_key functions
    function_call model_list thinking shared_session enable_json_schema_validation ssl_verify metadata
    input_type voice dimensions encoding_format guardrails prompt_id prompt_label prompt_variables
    prompt_version roles initial_prompt_value final_prompt_value bos_token eos_token base_model model_id
    adapter_id adapter_source qualifier cache_control_injection_points supports_system_message
    ensure_alternating_roles user_continue_message assistant_continue_message hf_model_name stream_chunk_size
    cooldown_time request_timeout safety_settings context_window_fallback_dict fallbacks project_id language
    serviceTier allow_legacy_cloud_file_ids aws_bedrock_control_plane_endpoint chatgpt_auth_file
    daily_reset_time fedramp_uplift_multiplier responses_api_version rpd switchyard_router_config
    thought_signature_in_tool_call_id token_exchange_audience token_exchange_endpoint token_exchange_profile
    token_exchange_scope tpd"""
)

PROVIDERS = words(
    """a2a a2a_agent abliteration ai21 ai21_chat aihubmix aiml aiohttp_openai amazon_nova anthropic anthropic_text
    apertis assemblyai auto_router aws_polly aws_textract azure azure_ai azure_speech azure_text baseten bedrock
    bedrock_mantle black_forest_labs bytez cerebras charity_engine chatgpt chutes clarifai cloudflare codestral
    cognition cohere cohere_chat cometapi compactifai cortecs crusoe cursor custom custom_openai darkbloom
    dashscope databricks datarobot deepgram deepinfra deepseek docker_model_runner dotprompt edenai elevenlabs
    empiriolabs empower fal_ai featherless_ai fireworks_ai friendliai galadriel gdc gemini gigachat github
    github_copilot gmi gradient_ai groq helicone heroku hosted_vllm huggingface humanloop hyperbolic inception
    infinity jina_ai lambda_ai langflow langfuse langgraph lemonade libertai litellm_agent litellm_proxy
    llamafile llamagate lm_studio manus maritalk meta meta_llama milvus minimax mistral modelscope mongodb
    moonshot morph nadir nano-gpt nebius neosantara nlp_cloud novita nscale nvidia_nim nvidia_riva oci ollama
    ollama_chat oobabooga openai openai_like openrouter ovhcloud parasail perplexity petals pg_vector pinstripes
    poe predibase prism publicai qwen_ai_platform qwencloud ragflow recraft reducto reka replicate runwayml
    s3_vectors sagemaker sagemaker_chat sagemaker_nova sail sambanova sap sarvam scaleway scx-ai snowflake
    soniox stability strands_decider synthetic tencent tensormesh text-completion-codestral
    text-completion-inception text-completion-openai together_ai topaz transcribe triton typesafe v0 valkey
    veniceai vercel_ai_gateway vertex_ai vertex_ai_beta vllm volcengine voyage wandb watsonx watsonx_text xai
    xiaomi_mimo xinference zai embedded aiand bespoke bigmodel clf_ai_gateway coralbricks databricks_agent
    eu_jev hostinger_router inferenceapis kyma laya microsoft_365_copilot nace opencode_go openinfer opensearch
    parallel_ai refuseless scaledown streamlake wally zerogpu"""
)
