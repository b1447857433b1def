"""Decisions over one failed call: what it means, whether and when to try again, and what to change before that."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blueprint_llm.errors import (
    CATEGORIES,
    AnswerInvalidError,
    CallError,
    Failure,
    StreamBrokenError,
    ToolCallInvalidError,
)
from blueprint_llm.policy.classification import classify, retry_after_s, said, wait_s
from blueprint_llm.policy.clues import CLUES, LASTING
from blueprint_llm.policy.retry import (
    UNCHANGED,
    Change,
    Fail,
    HeldBack,
    NextTarget,
    Retry,
    RetryRatio,
    RetryRules,
    backoff_s,
    decide,
    recovery_step,
)
from blueprint_llm.streaming import Verdict

OPENAI_BASES = ("APIStatusError", "APIError", "OpenAIError", "Exception", "BaseException", "object")
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NO_RETRIES = RetryRules(max_attempts=1)
RULES = RetryRules(max_attempts=3, base_s=1.0, cap_s=8.0, max_retry_after_s=20.0)


def failure(status=None, message="", classes=(), causes=()):
    """A failure as it arrives: the named classes above the bases that all of them have."""
    return Failure(classes=(*classes, *OPENAI_BASES), status=status, message=message, causes=causes)


# What LiteLLM says (1.106.2), and what it means.
MEANINGS = [
    pytest.param(
        failure(500, "No module named 'mcp'", ["InternalServerError"], ["ModuleNotFoundError"]),
        "invalid_request",
        "missing_dependency",
        id="a package is missing",
    ),
    pytest.param(
        failure(None, "install it", ["APIConnectionError"], ["ImportError"]),
        "invalid_request",
        "missing_dependency",
        id="an ImportError in the cause chain",
    ),
    pytest.param(
        Failure(classes=("TypeError", "Exception"), message="got an unexpected keyword"),
        "invalid_request",
        "rejected_by_litellm",
        id="a TypeError of LiteLLM itself",
    ),
    pytest.param(
        Failure(classes=("ValueError", "Exception"), message="bad argument"),
        "invalid_request",
        "rejected_by_litellm",
        id="a ValueError of LiteLLM itself",
    ),
    pytest.param(
        failure(500, "Missing credentials. Please pass an `api_key`", ["InternalServerError"]),
        "refused",
        "missing_credentials",
        id="no key, reported as 500",
    ),
    pytest.param(
        failure(500, "The api_key client option must be set either by passing api_key", ["InternalServerError"]),
        "refused",
        "missing_credentials",
        id="no key in the client, reported as 500",
    ),
    pytest.param(
        failure(400, "API key not valid. Please pass a valid API key.", ["BadRequestError"]),
        "refused",
        "api_key_not_valid",
        id="a bad key, reported as 400",
    ),
    pytest.param(failure(401, "", ["AuthenticationError"]), "refused", None, id="401"),
    pytest.param(failure(403, "", ["PermissionDeniedError"]), "refused", None, id="403"),
    pytest.param(
        failure(402, "Insufficient Balance", ["BadRequestError"]), "refused", "credit_balance", id="402 as a 400 class"
    ),
    pytest.param(failure(402, "", ["PaymentRequiredError", "BadRequestError"]), "refused", None, id="402"),
    pytest.param(
        failure(429, "You exceeded your current quota. insufficient_quota", ["RateLimitError"]),
        "refused",
        "insufficient_quota",
        id="no quota, as 429",
    ),
    pytest.param(
        failure(400, "Your credit balance is too low", ["BadRequestError"]),
        "refused",
        "credit_balance",
        id="no credit, as 400",
    ),
    pytest.param(
        failure(429, "billing_hard_limit_reached", ["RateLimitError"]),
        "refused",
        "billing_not_active",
        id="billing limit, as 429",
    ),
    pytest.param(failure(404, "", ["NotFoundError"]), "not_found", None, id="404"),
    pytest.param(failure(404, "", ["BadRequestError"]), "not_found", None, id="404 as a 400 class"),
    pytest.param(failure(413, "", ["APIError"]), "context_length", None, id="413"),
    pytest.param(
        failure(400, "", ["ContextWindowExceededError", "BadRequestError"]), "context_length", None, id="context class"
    ),
    pytest.param(
        failure(400, "This model's maximum context length is 8192 tokens", ["BadRequestError"]),
        "context_length",
        "maximum_context_length",
        id="context, as a plain 400",
    ),
    pytest.param(
        failure(400, "", ["ContentPolicyViolationError", "BadRequestError"]), "content_policy", None, id="content"
    ),
    pytest.param(failure(429, "slow down", ["RateLimitError"]), "rate_limited", None, id="429"),
    pytest.param(failure(408, "", ["Timeout", "APITimeoutError", "APIConnectionError"]), "timeout", None, id="408"),
    pytest.param(failure(504, "", ["InternalServerError"]), "timeout", None, id="504 as a 500 class"),
    pytest.param(failure(409, "", ["APIError"]), "unavailable", None, id="409"),
    pytest.param(failure(500, "", ["InternalServerError"]), "unavailable", None, id="500"),
    pytest.param(failure(502, "<html>Bad Gateway</html>", ["InternalServerError"]), "unavailable", None, id="HTML 502"),
    pytest.param(failure(503, "", ["ServiceUnavailableError"]), "unavailable", None, id="503"),
    pytest.param(failure(529, "overloaded_error", ["InternalServerError"]), "unavailable", "overloaded", id="529"),
    pytest.param(
        failure(500, "Connection error.", ["InternalServerError"], ["APIConnectionError", "ConnectError"]),
        "unavailable",
        None,
        id="a refused connection",
    ),
    pytest.param(
        failure(500, "[Errno -2] Name or service not known", ["APIConnectionError"], ["ConnectError", "gaierror"]),
        "unavailable",
        None,
        id="a name that does not resolve",
    ),
    pytest.param(
        failure(500, "Expecting value: line 1", ["APIConnectionError"], ["JSONDecodeError"]),
        "malformed",
        "not_json",
        id="200 that is no JSON",
    ),
    pytest.param(failure(None, "", ["APIResponseValidationError"]), "malformed", None, id="an invalid response"),
    pytest.param(failure(400, "bad temperature", ["BadRequestError"]), "invalid_request", None, id="400"),
    pytest.param(failure(422, "", ["UnprocessableEntityError"]), "invalid_request", None, id="422"),
    pytest.param(
        failure(None, "", ["UnsupportedParamsError", "BadRequestError"]), "invalid_request", None, id="parameter"
    ),
    pytest.param(
        failure(500, "Object of type bytes is not JSON serializable", ["InternalServerError"], ["TypeError"]),
        "invalid_request",
        "cannot_be_encoded",
        id="a request that cannot be encoded, as 500",
    ),
    pytest.param(failure(418, "teapot", ["APIError"]), "unknown", None, id="a status nobody knows"),
    pytest.param(Failure(classes=("Surprise", "Exception")), "unknown", None, id="a class nobody knows"),
    pytest.param(Failure(classes=()), "unknown", None, id="nothing known"),
]


@pytest.mark.parametrize(("what", "category", "code"), MEANINGS)
def test_failure_is_sorted_into_its_row(what, category, code):
    """Phrases decide before local faults, these before classes, and classes before the status."""
    found = classify(what)

    assert (found.category, found.code) == (category, code)


def anthropic(message, type_="invalid_request_error"):
    """What LiteLLM makes of an error body of Anthropic's."""
    body = json.dumps({"type": "error", "error": {"type": type_, "message": message}, "request_id": "req_1"})
    return f"litellm.BadRequestError: AnthropicException - {body}"


def openai(message, *, code=None, **more):
    """OpenAI's client prints a body as Python does, and LiteLLM that."""
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code, **more}}
    return f"litellm.BadRequestError: OpenAIException - Error code: 400 - {body}"


def google(code, message, status, *details):
    """Google's body as bytes, as Vertex's handler has it."""
    body = json.dumps({"error": {"code": code, "message": message, "status": status, "details": details}}, indent=2)
    return f"litellm.APIError: litellm.APIError: VertexAIException - {body.encode()!r}"


def nested(text):
    """Gemini's compatible endpoint puts the body's text into the message of another."""
    return "GeminiException - " + json.dumps({"error": {"message": text, "code": 400, "status": "Bad Request"}})


def behind(message):
    """What OpenRouter hands on of the provider behind it."""
    raw = json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": None}})
    error = {"message": "Provider returned error", "code": 400, "metadata": {"provider_name": "x", "raw": raw}}
    return "OpenrouterException - " + json.dumps({"error": error})


PER_DAY = {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}
PER_MINUTE = {"violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]}
RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36.5s"}
QUOTA = "You exceeded your current quota, please check your plan and billing details."
INFERENCE = "Invocation of model ID anthropic.claude-x with on-demand throughput isn’t supported. Retry your request."
TOO_LARGE = "Request too large for model `llama` in organization `org` on tokens per minute (TPM): Limit 6000."

# What a provider alone has against a request (or against us), as LiteLLM hands it on; the sources stand in `clues`.
PROVIDERS_OWN = [
    pytest.param(400, anthropic("You have reached your specified API usage limits. You will regain access on 2026-04-01"
                                " at 00:00 UTC."), "refused", "usage_limit", id="Anthropic: usage limits"),
    pytest.param(400, anthropic("Your credit balance is too low to access the Anthropic API."), "refused",
                 "credit_balance", id="Anthropic: no credit"),
    pytest.param(400, anthropic("This organization has been disabled."), "refused", "account_disabled",
                 id="Anthropic: disabled"),
    pytest.param(429, anthropic("Extra usage is required for long context requests.", "rate_limit_error"),
                 "context_length", "request_too_large", id="Anthropic: long context is not in the plan"),
    pytest.param(413, anthropic("Request exceeds the maximum size", "request_too_large"), "context_length",
                 "request_too_large", id="Anthropic: 413"),
    pytest.param(400, anthropic("Output blocked by content filtering policy"), "content_policy",
                 "content_policy_violation", id="Anthropic: output blocked"),
    pytest.param(400, google(400, "API key expired. Please renew the API key.", "INVALID_ARGUMENT",
                             {"reason": "API_KEY_INVALID"}), "refused", "api_key_not_valid", id="Gemini: key expired"),
    pytest.param(400, nested(json.dumps({"error": {"code": 400, "message": "API key expired. Please renew it."}})),
                 "refused", "api_key_not_valid", id="Gemini: key expired, a body in a body"),
    pytest.param(400, google(400, "User location is not supported for the API use.", "FAILED_PRECONDITION"),
                 "refused", "location_not_supported", id="Gemini: location"),
    pytest.param(429, google(429, QUOTA, "RESOURCE_EXHAUSTED", PER_DAY, RETRY_INFO), "refused", "quota_exhausted",
                 id="Gemini: the day's quota, though it says when to retry"),
    pytest.param(429, google(429, QUOTA, "RESOURCE_EXHAUSTED", PER_MINUTE, RETRY_INFO), "rate_limited", None,
                 id="Gemini: the minute's quota is a rate limit"),
    pytest.param(429, openai(QUOTA, code="insufficient_quota"), "refused", "insufficient_quota", id="OpenAI: quota"),
    pytest.param(429, "RateLimitError: OpenAIException - " + QUOTA, "refused", "insufficient_quota",
                 id="OpenAI: quota, words only"),
    pytest.param(403, openai("Country, region, or territory not supported", type="request_forbidden"), "refused",
                 "location_not_supported", id="OpenAI: country"),
    pytest.param(400, openai("Your organization must be verified to stream this model."), "refused",
                 "model_not_available", id="OpenAI: not verified"),
    pytest.param(403, openai("Project `proj_1` does not have access to model `gpt-9`", code="model_not_found"),
                 "refused", "model_not_available", id="OpenAI: no access"),
    pytest.param(429, openai("Request too large for gpt-9 on tokens per min (TPM): Limit 30000, Requested 342389."),
                 "context_length", "request_too_large", id="OpenAI: more than a minute's tokens"),
    pytest.param(400, openai("Unsupported value: 'temperature' does not support 0.2 with this model.",
                             code="unsupported_value"), "invalid_request", "unsupported_parameter",
                 id="OpenAI: a value this model does not take"),
    pytest.param(400, openai("Failed to call a function. Please adjust your prompt.", code="tool_use_failed",
                             failed_generation='{"message": "insufficient_quota"}'), "malformed", "tool_use_failed",
                 id="Groq: the model failed to call"),
    pytest.param(400, openai("Failed to generate JSON.", code="json_validate_failed"), "malformed", "tool_use_failed",
                 id="Groq: the model failed to write JSON"),
    pytest.param(413, f"GroqException - {TOO_LARGE}", "context_length", "request_too_large", id="Groq: 413"),
    pytest.param(400, 'BedrockException - {"message":"' + INFERENCE + '"}', "refused", "model_not_available",
                 id="Bedrock: no on-demand throughput"),
    pytest.param(403, "BedrockException - An error occurred (AccessDeniedException) when calling the ConverseStream "
                 "operation: You don't have access to the model with the specified model ID.", "refused",
                 "model_not_available", id="Bedrock: no access"),
    pytest.param(400, "BedrockException - The provided model identifier is invalid.", "not_found", "model_not_found",
                 id="Bedrock: no such model"),
    pytest.param(400, "OllamaException - registry.ollama.ai/library/gemma3:4b does not support tools",
                 "invalid_request", "unsupported_parameter", id="Ollama: no tools"),
    pytest.param(400, openai("Access denied, please make sure your account is in good standing.", code="Arrearage"),
                 "refused", "billing_not_active", id="DashScope: arrears"),
    pytest.param(429, "Your account org-1 <ak-1> is suspended due to insufficient balance, please recharge",
                 "refused", "credit_balance", id="Moonshot: balance"),
    pytest.param(403, "Your team 16f2 has either used all available credits or reached its monthly spending limit.",
                 "refused", "credit_balance", id="xAI: credits"),
    pytest.param(429, openai("The usage limit has been reached", type="usage_limit_reached", resets_in_seconds=529498),
                 "refused", "usage_limit", id="Codex: a plan's limit"),
    pytest.param(429, openai("Usage limit reached for 5 hour. Your limit will reset at 2026-09-09 05:38:28",
                             code="1308"), "refused", "usage_limit", id="Z.AI: five hours' limit"),
    pytest.param(429, "you (bob) have reached your session usage limit, upgrade for higher limits: https://x",
                 "refused", "usage_limit", id="Ollama's cloud: a session's limit"),
    pytest.param(429, 'BedrockException - {"message":"Too many tokens per day, please wait before trying again."}',
                 "refused", "quota_exhausted", id="Bedrock: the day's tokens"),
    pytest.param(429, 'BedrockException - {"message":"Too many tokens, please wait before trying again."}',
                 "rate_limited", None, id="Bedrock: the minute's tokens are a rate limit"),
    pytest.param(429, google(429, "You have exhausted your capacity on this model. Your quota will reset after 5s.",
                             "RESOURCE_EXHAUSTED"), "rate_limited", None, id="Gemini: capacity, for seconds"),
    pytest.param(400, openai("Content Exists Risk", code="invalid_request_error"), "content_policy",
                 "content_policy_violation", id="DeepSeek: risk"),
    pytest.param(403, "Content violates usage guidelines. Team: x, Failed check: SAFETY_CHECK_TYPE_BIO",
                 "content_policy", "content_policy_violation", id="xAI: its 403 is no matter of the key"),
    pytest.param(400, openai("Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
                             code="invalid_prompt"), "content_policy", "content_policy_violation",
                 id="OpenAI: a prompt that was flagged"),
    pytest.param(400, openai("Your request was rejected as a result of our safety system. Revise it.",
                             code="moderation_blocked"), "content_policy", "content_policy_violation",
                 id="OpenAI: its safety system"),
    pytest.param(400, openai("<400> InternalError.Algo.DataInspectionFailed: Input data may contain inappropriate "
                             "content.", code="data_inspection_failed"), "content_policy", "content_policy_violation",
                 id="DashScope: inspection"),
    pytest.param(500, "Output data may contain inappropriate content.", "content_policy", "content_policy_violation",
                 id="DashScope: inspection, as 500"),
    pytest.param(400, openai("The request was rejected because it was considered high risk", type="content_filter"),
                 "content_policy", "content_policy_violation", id="Moonshot: high risk"),
    pytest.param(403, "OpenrouterException - " + json.dumps({"error": {"code": 403, "message": "openai/x requires "
                 "moderation on OpenAI. Your input was flagged.", "metadata": {"flagged_input": "API key expired"}}}),
                 "content_policy", "content_policy_violation", id="OpenRouter: moderation"),
    pytest.param(400, behind("Invalid content type. image_url is only supported by certain models."),
                 "invalid_request", "unsupported_input", id="OpenRouter: OpenAI behind it takes no image"),
    pytest.param(402, behind("Your credit balance is too low"), "refused", "credit_balance",
                 id="OpenRouter: Anthropic behind it, no credit"),
    pytest.param(500, "image input is not supported by this server", "invalid_request", "unsupported_input",
                 id="llama.cpp: no images, as 500"),
    pytest.param(500, 'Failed to parse messages: Unsupported content part type: "image_url"; messages = []',
                 "invalid_request", "unsupported_input", id="llama.cpp: no such part, as 500"),
    pytest.param(400, openai("json mode cannot be combined with tool/function calling"), "invalid_request",
                 "unsupported_tools", id="Groq: JSON beside tools"),
    pytest.param(400, openai("'response_format` json_object cannot be combined with tool/function calling"),
                 "invalid_request", "unsupported_tools", id="Groq: JSON beside tools, quoted by half"),
    pytest.param(400, google(400, "Forced function calling (ANY mode) with a response mime type: 'application/json' "
                             "is unsupported", "INVALID_ARGUMENT"), "invalid_request", "unsupported_tools",
                 id="Gemini: JSON beside tools"),
    pytest.param(400, google(400, "Tool use with function calling is unsupported", "INVALID_ARGUMENT"),
                 "invalid_request", "unsupported_tools", id="Gemini: search beside tools"),
    pytest.param(400, '{"object": "error", "message": "\\"auto\\" tool choice requires --enable-auto-tool-choice and '
                 '--tool-call-parser to be set", "code": 400}', "invalid_request", "unsupported_tools",
                 id="vLLM: started without tools"),
    pytest.param(400, anthropic("`temperature` and `top_p` cannot both be specified for this model."),
                 "invalid_request", "unsupported_parameter", id="Anthropic: one of two"),
    pytest.param(400, 'BedrockException - {"message":"The model returned the following errors: `temperature` and '
                 '`top_p` cannot both be specified for this model."}', "invalid_request", "unsupported_parameter",
                 id="Bedrock: one of two"),
    pytest.param(400, anthropic("`temperature` is deprecated for this model."), "invalid_request",
                 "unsupported_parameter", id="Anthropic: deprecated"),
    pytest.param(400, anthropic('"thinking.type.enabled" is not supported for this model. Use "x".'),
                 "invalid_request", "unsupported_parameter", id="Anthropic: another way of thinking"),
    pytest.param(400, anthropic("`top_p` must be greater than or equal to 0.95 or unset when thinking is enabled."),
                 "invalid_request", "unsupported_parameter", id="Anthropic: not while it thinks"),
    pytest.param(400, anthropic("This model does not support assistant message prefill. End with a user message."),
                 "invalid_request", "unsupported_parameter", id="Anthropic: no prefill"),
    pytest.param(400, openai("This response_format type is unavailable now", code="invalid_request_error"),
                 "invalid_request", "unsupported_parameter", id="DeepSeek: no schema"),
    pytest.param(422, openai("Failed to deserialize the JSON body into the target type: response_format: "
                             "response_format.type `json_schema` is unavailable now at line 1"), "invalid_request",
                 "unsupported_parameter", id="DeepSeek: no schema, as 422"),
    pytest.param(400, openai("Invalid parameter: 'response_format' of type 'json_schema' is not supported with this "
                             "model."), "invalid_request", "unsupported_parameter", id="OpenAI: no schema"),
    pytest.param(400, "This model's maximum prompt length is 131072 but the request contains 136973 tokens.",
                 "context_length", "maximum_context_length", id="xAI: too long"),
    pytest.param(400, openai("Invalid request: Your request exceeded model token limit: 262144 (requested: 269030)"),
                 "context_length", "maximum_context_length", id="Moonshot: too long"),
    pytest.param(422, "litellm.BadRequestError: GeminiException - Error converting to valid response block='args'.",
                 "malformed", "unreadable_answer", id="LiteLLM cannot read Gemini's answer"),
    pytest.param(400, "litellm.BadRequestError: Ollama_chatException - KeyError: 'message', Got unexpected response "
                 "from Ollama: {'error': 'model runner has unexpectedly stopped'}", "malformed", "unreadable_answer",
                 id="LiteLLM cannot read Ollama's error"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "message", "category", "code"), PROVIDERS_OWN)
def test_what_one_provider_alone_says_goes_on(status, message, category, code):
    """Whatever status carries it, a provider's own trouble is its row, and the next target is asked."""
    classes = {400: "BadRequestError", 429: "RateLimitError"}.get(status, "APIError")
    found = classify(failure(status, message, [classes]))

    error = CallError("no", category=found.category, code=found.code, elsewhere=found.elsewhere)
    assert (found.category, found.code) == (category, code)
    assert category == "content_policy" or decide(error, NO_RETRIES, attempts=1, left_s=9, draw=0) == (NextTarget())
    assert found.lasting == (found.code in LASTING)
    assert not found.lasting or CATEGORIES[found.category].breaker


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(openai("Invalid schema for function 'pay': the description mentions usage limits."), id="words"),
        pytest.param(openai("Invalid schema for function 'pay': 'You have reached your specified API usage limits.' is "
                            "not a description."), id="a whole sentence, quoted"),
        pytest.param(openai('Invalid value: "Your credit balance is too low". Expected a number.'), id="double quotes"),
        pytest.param(openai("Bad messages[0]: `insufficient_quota` is no role."), id="a code, quoted"),
        pytest.param('Invalid schema: {"message": "API key expired.", "code": "tool_use_failed"}', id="a JSON schema"),
        pytest.param(anthropic("tools.0.custom.input_schema: the text your credit balance is too low is not a schema"),
                     id="in the middle of a sentence"),
        pytest.param(openai("Wrong tool.", metadata={"note": "insufficient_quota", "message": "API key expired"}),
                 id="the caller's metadata, repeated"),
    pytest.param(openai("Invalid schema for function 'pay': the description says that image input is not supported."),
                 id="what a model does not take, in a description"),
    pytest.param(openai("Wrong tool.", input={"code": "insufficient_quota", "message": "API key expired"}),
                     id="the request, repeated beside the message"),
        pytest.param("x " * 9000 + "\nYour credit balance is too low", id="far behind the beginning"),
    ],
)  # fmt: skip
def test_quoting_is_not_saying(message):
    """A 400 that merely quotes what another error would say stays an invalid request, and stops."""
    found = classify(failure(400, message, ["BadRequestError"]))

    assert (found.category, found.elsewhere) == ("invalid_request", False)


def test_litellms_own_refusal_of_a_parameter_goes_on():
    """What LiteLLM does not send to this model, another model may take; alone, it is an invalid request."""
    found = classify(failure(400, "gpt-5 does not take temperature=0.2", ["UnsupportedParamsError", "BadRequestError"]))
    error = CallError("no", category=found.category, elsewhere=found.elsewhere)

    assert found.category == "invalid_request"
    assert decide(error, RULES, attempts=1, left_s=60, draw=0) == NextTarget()


def test_every_clue_has_a_source_and_a_row():
    """Each row of the table names where it was seen, means a known category, and can fire."""
    assert all(clue.source and clue.category in CATEGORIES and (clue.codes or clue.says) for clue in CLUES)
    assert {clue.code for clue in CLUES if clue.lasting} == LASTING
    assert len({clue.code for clue in CLUES}) == len(CLUES)


BODY_WAITS = [
    pytest.param("Rate limit reached for gpt-4. Please try again in 1.5s. Visit https://x.", 1.5, id="OpenAI: seconds"),
    pytest.param("Please try again in 6m0s.", 360.0, id="OpenAI: minutes and seconds"),
    pytest.param("Please try again in 174ms.", 0.174, id="OpenAI: milliseconds"),
    pytest.param("Please try again in 1h2m3.5s", 3723.5, id="hours"),
    pytest.param("Please try again in 9m38.016s. Need more tokens?", 578.016, id="Groq: a day's tokens"),
    pytest.param("Please retry after 2 seconds. Please go here: https://x", 2.0, id="Azure: seconds"),
    pytest.param("Please retry after 86400 seconds.", 86400.0, id="Azure: a day"),
    pytest.param("Please retry in 36.2s.", 36.2, id="Gemini: words"),
    pytest.param("try again in 1 minute and 5 seconds", 65.0, id="in full"),
    pytest.param(google(429, QUOTA, "RESOURCE_EXHAUSTED", RETRY_INFO), 36.5, id="Google: RetryInfo"),
    pytest.param(google(429, QUOTA, "RESOURCE_EXHAUSTED", PER_DAY, RETRY_INFO), None, id="Google: the day's quota"),
    pytest.param(google(429, QUOTA, "X", {"retryDelay": {"seconds": 3, "nanos": 0}}), 3.0, id="Google: protobuf"),
    pytest.param(openai("Slow down.", retry_after=12), 12.0, id="a field in seconds"),
    pytest.param(openai("Slow down.", retry_after_ms=250), 0.25, id="a field in milliseconds"),
    pytest.param(anthropic("You have reached your specified API usage limits. You will regain access on 2026-03-02 at "
                           "00:00 UTC."), 43200.0, id="Anthropic: a date"),
    pytest.param("You will regain access on 2026-02-30.", None, id="a date that is none"),
    pytest.param("Your quota will reset after 8h44m7s.", 31447.0, id="Gemini: capacity"),
    pytest.param(openai("Limit.", type="usage_limit_reached", resets_in_seconds=529498), 529498.0, id="Codex: a field"),
    pytest.param('{"error": "Model x is currently loading", "estimated_time": 20.0}', 20.0, id="Hugging Face: loading"),
    pytest.param(behind("Rate limit reached. Please try again in 3s."), 3.0, id="OpenRouter: the provider behind it"),
    pytest.param("Please try again later.", None, id="no number"),
    pytest.param("Ask to 'try again in 5s' politely.", None, id="quoted"),
    pytest.param(openai("Slow down.", retry_after="soon"), None, id="a field nobody understands"),
    pytest.param(openai("Slow down.", retry_after=-1), None, id="a negative field"),
    pytest.param("", None, id="nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "seconds"), BODY_WAITS)
def test_waits_in_bodies_are_obeyed_like_headers(message, seconds):
    """What a body asks for is the wait where no header asks; a header wins."""
    what = failure(429, message, ["RateLimitError"])

    found = wait_s(what, now=NOON.timestamp())
    assert found == (seconds if seconds is None else pytest.approx(seconds))
    assert wait_s(replace(what, headers={"retry-after": "7"}), now=NOON.timestamp()) == 7


def test_the_body_counts_where_litellms_message_has_no_word():
    """Of an error that is no object LiteLLM's message may be a status alone: what was sent says the rest."""
    bare = failure(429, "litellm.RateLimitError: RateLimitError: OpenAIException - Error code: 429", ["RateLimitError"])
    told = replace(bare, body='{"error": "you (bob) have reached your session usage limit"}')
    slow = replace(bare, body='{"error": "Slow down", "retry_after": 4}')

    assert (classify(bare).code, classify(told).code) == (None, "usage_limit")
    assert (wait_s(bare, now=0), wait_s(slow, now=0)) == (None, 4)


@given(
    st.text()
    | st.recursive(
        st.text() | st.floats(),
        lambda each: (
            st.lists(each)
            | st.dictionaries(st.sampled_from(["message", "error", "code", "retryDelay", "details", "seconds"]), each)
        ),
    ).map(repr)
)
@settings(max_examples=60, deadline=None, database=None)
def test_any_message_can_be_read(message):
    """No message makes it raise; a wait is a finite number from zero up."""
    found = wait_s(failure(429, message), now=NOON.timestamp())

    assert found is None or 0 <= found < float("inf")
    assert classify(failure(429, message)).category in CATEGORIES
    assert isinstance(said(message).codes, frozenset)


WAITS = [
    pytest.param({"retry-after": "2"}, 2.0, id="whole seconds"),
    pytest.param({"retry-after": " 1.5 "}, 1.5, id="parts of a second"),
    pytest.param({"retry-after": ".5"}, 0.5, id="no digit before the point"),
    pytest.param({"retry-after": "1e-2"}, 0.01, id="an exponent"),
    pytest.param({"retry-after-ms": "2s", "retry-after": "9"}, 9.0, id="milliseconds with a unit"),
    pytest.param({"retry-after": "0"}, 0.0, id="at once"),
    pytest.param({"retry-after-ms": "1500", "retry-after": "9"}, 1.5, id="milliseconds win"),
    pytest.param({"retry-after-ms": "soon", "retry-after": "9"}, 9.0, id="milliseconds nobody understands"),
    pytest.param({"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT"}, 30.0, id="a date"),
    pytest.param({"retry-after": "Sun, 01 Mar 2026 11:00:00 GMT"}, 0.0, id="a date that is over"),
    pytest.param(
        {"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT", "date": "Sun, 01 Mar 2026 12:00:20 GMT"},
        10.0,
        id="a date by the server's own clock",
    ),
    pytest.param({"retry-after": "-3"}, None, id="negative"),
    pytest.param({"retry-after": "nan"}, None, id="not a number"),
    pytest.param({"retry-after": "inf"}, None, id="endless"),
    pytest.param({"retry-after": ""}, None, id="empty"),
    pytest.param({}, None, id="nothing said"),
]


@pytest.mark.parametrize(("headers", "wait_s"), WAITS)
def test_retry_after_is_understood(headers, wait_s):
    """Every form of Retry-After gives its seconds, and nonsense gives none."""
    assert retry_after_s(headers, now=NOON.timestamp()) == wait_s


NAMES = st.sampled_from(["retry-after", "retry-after-ms", "date"])
DATES = st.datetimes(timezones=st.just(UTC)).map(format_datetime)


@given(st.dictionaries(NAMES, st.text() | st.integers().map(str) | st.floats().map(str) | DATES))
def test_any_retry_after_is_a_wait_or_nothing(headers):
    """No header makes it raise, and a wait is a finite number of seconds from zero up."""
    wait_s = retry_after_s(headers, now=NOON.timestamp())

    assert wait_s is None or 0 <= wait_s < float("inf")


@given(
    base_s=st.floats(0, 100),
    cap_s=st.floats(0, 100),
    retry=st.integers(1, 10_000),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_backoff_stays_within_its_bounds(base_s, cap_s, retry, draw):
    """Full jitter lies between nothing and the capped exponential, which is the wait without jitter."""
    rules = RetryRules(base_s=base_s, cap_s=cap_s)
    ceiling = backoff_s(replace(rules, jitter=False), retry=retry, draw=draw)

    assert 0 <= backoff_s(rules, retry=retry, draw=draw) <= ceiling <= cap_s


def test_backoff_doubles_up_to_its_cap():
    """Without jitter the waits double from the base to the cap."""
    rules = RetryRules(base_s=0.5, cap_s=3.0, jitter=False)

    assert [backoff_s(rules, retry=n, draw=0.9) for n in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_quiet_clients_may_retry_up_to_the_floor():
    """Without recent calls there are as many retries as the floor, and new ones when the window has passed."""
    ratio = RetryRatio(ratio=0.2, floor=10, window_s=10.0)

    assert [ratio.hold_back(0.0) is None for _ in range(12)] == [True] * 10 + [False] * 2
    assert ratio.hold_back(10.5) is None


def test_busy_clients_may_retry_their_share():
    """Above the floor, retries are at most the ratio's share of the calls within the window."""
    ratio = RetryRatio(ratio=0.2, floor=10, window_s=10.0)
    for n in range(100):
        ratio.record_call(n / 100)

    assert sum(ratio.hold_back(1.0) is None for _ in range(50)) == 20
    assert sum(ratio.hold_back(11.5) is None for _ in range(50)) == 10


def test_what_is_held_back_can_be_said():
    """A retry that finds no room says why: in the trace as numbers, in an error as a sentence."""
    ratio = RetryRatio(ratio=0.2, floor=1)
    ratio.record_call(0.0)

    first, second = ratio.hold_back(0.0), ratio.hold_back(0.0)

    assert first is None
    assert second == HeldBack(retries=1, calls=1, ratio=0.2, floor=1, window_s=10.0)
    assert second.to_dict() == {"retries": 1, "calls": 1, "ratio": 0.2, "floor": 1, "window_s": 10.0}
    assert "1 retries beside 1 calls" in str(second)


def test_an_outage_is_multiplied_by_a_fifth_at_most():
    """Sixty requests at a provider that is down are 72 at most, with the ratio and attempts that are the defaults."""
    ratio, sent = RetryRatio(), 0
    for n in range(60):
        ratio.record_call(n / 10)
        for attempt in range(1, RetryRules().max_attempts + 1):
            sent += 1
            decision = decide(an_error("unavailable"), RetryRules(), attempts=attempt, left_s=60, draw=0.0, others=True)
            is_retry = isinstance(decision, Retry)
            if not is_retry or ratio.hold_back(n / 10):
                break

    assert sent <= 72


def test_reasks_are_told_from_retries():
    """A clarification or a higher cap asks again; another try after a break does not."""
    asked = recovery_step(invalid("not_json"), UNCHANGED)
    cut = recovery_step(invalid("truncated_length"), UNCHANGED)
    broken = recovery_step(BROKEN, UNCHANGED)

    assert [each.is_reask(UNCHANGED) for each in (asked, cut, broken)] == [True, True, False]


def test_calls_are_forgotten_with_the_window():
    """What is remembered of calls does not grow beyond the window."""
    ratio = RetryRatio(ratio=0.2, window_s=1.0)
    for n in range(10_000):
        ratio.record_call(n / 100)

    assert len(ratio._calls) <= 102


def an_error(category, **facts):
    """A failed call of that category."""
    return CallError("it failed", category=category, **facts)


DECISIONS = [
    pytest.param(an_error("rate_limited"), {}, Retry(wait_s=0.5), id="retriable: retry after a jittered wait"),
    pytest.param(an_error("rate_limited"), {"attempts": 2}, Retry(wait_s=1.0), id="the second wait is longer"),
    pytest.param(an_error("rate_limited"), {"attempts": 3}, NextTarget(), id="attempts are used up"),
    pytest.param(an_error("unavailable"), {"left_s": 0.5}, NextTarget(), id="the wait does not fit"),
    pytest.param(an_error("rate_limited", retry_after_s=3), {}, Retry(wait_s=3), id="as long as was asked"),
    pytest.param(an_error("rate_limited", retry_after_s=21), {}, NextTarget(), id="asked to wait too long"),
    pytest.param(
        an_error("rate_limited", retry_after_s=9), {"left_s": 8.0}, NextTarget(), id="asked for more than is left"
    ),
    pytest.param(an_error("rate_limited", retry_after_s=0), {}, Retry(wait_s=0), id="asked to come back at once"),
    pytest.param(an_error("refused"), {}, NextTarget(), id="refused: the next target"),
    pytest.param(an_error("not_found"), {}, NextTarget(), id="not found: the next target"),
    pytest.param(an_error("context_length"), {}, NextTarget(), id="too long: the next target"),
    pytest.param(an_error("unknown"), {}, NextTarget(), id="unknown: the next target"),
    pytest.param(an_error("invalid_request"), {}, Fail(), id="an invalid request: stop"),
    pytest.param(an_error("invalid_request", elsewhere=True), {}, NextTarget(), id="what this target alone refuses"),
    pytest.param(an_error("content_policy"), {}, Fail(), id="content policy: stop"),
    pytest.param(an_error("content_policy"), {"others": True}, Fail(), id="plain fallbacks are not for refusals"),
    pytest.param(an_error("timeout", code="first_token"), {"others": True}, NextTarget(), id="silent: another target"),
    pytest.param(an_error("timeout", code="first_token"), {}, Retry(wait_s=0.5), id="silent and alone: once more"),
    pytest.param(an_error("timeout", code="no_response"), {"attempts": 2}, NextTarget(), id="silent twice: enough"),
    pytest.param(
        an_error("stream_broken", code="stalled"), {"others": True}, NextTarget(), id="stalled: another target"
    ),
    pytest.param(an_error("stream_broken"), {"others": True}, Retry(wait_s=0.5), id="broken is not silent"),
    pytest.param(an_error("unavailable"), {"others": True}, Retry(wait_s=0.5), id="an error is not silence"),
    pytest.param(
        an_error("content_policy"),
        {"fallback_on": frozenset({"content_policy"})},
        NextTarget(),
        id="content policy with fallbacks of its own",
    ),
]


@pytest.mark.parametrize(("error", "progress", "decision"), DECISIONS)
def test_decision(error, progress, decision):
    """A failure's row, the attempts made and the time left decide what comes next."""
    where = {"attempts": 1, "left_s": 60.0, "draw": 0.5, **progress}

    assert decide(error, RULES, **where) == decision


@pytest.mark.parametrize("category", CATEGORIES)
def test_no_category_is_retried_for_ever(category):
    """Whatever keeps failing, a target is left after its attempts."""
    error = an_error(category)
    decisions = [decide(error, RULES, attempts=n, left_s=1e9, draw=0.0) for n in range(1, 5)]

    assert not isinstance(decisions[-1], Retry)
    assert sum(isinstance(each, Retry) for each in decisions) in {0, 1, 2}


def invalid(code, *, retriable=True, kind=ToolCallInvalidError):
    """A tool call or a structured answer that was found to be invalid."""
    verdict = Verdict(status="invalid", code=code, tool="get_weather", retriable=retriable)
    return kind("not valid", verdict=verdict, code=code)


BROKEN = StreamBrokenError("it broke")
NOTE = invalid("not_json").verdict.clarification()

RUNGS = [
    pytest.param(an_error("rate_limited"), UNCHANGED, {}, UNCHANGED, id="nothing to mend: as before"),
    pytest.param(an_error("malformed"), UNCHANGED, {}, UNCHANGED, id="malformed without a verdict: as before"),
    pytest.param(
        invalid("truncated_length"),
        UNCHANGED,
        {"max_tokens": 100},
        Change(max_tokens=200),
        id="cut: twice the cap",
    ),
    pytest.param(
        invalid("truncated_length"),
        UNCHANGED,
        {},
        Change(max_tokens=8192),
        id="cut without a cap: twice 4096",
    ),
    pytest.param(
        invalid("truncated_length"),
        UNCHANGED,
        {"max_tokens": 100, "most_tokens": 150},
        Change(max_tokens=150),
        id="cut: no more than the model writes",
    ),
    pytest.param(
        invalid("truncated_length", retriable=False),
        UNCHANGED,
        {"max_tokens": 100, "most_tokens": 100},
        None,
        id="cut at the model's own limit: nothing helps",
    ),
    pytest.param(
        invalid("truncated_length", retriable=False),
        Change(max_tokens=200),
        {"max_tokens": 200},
        None,
        id="cut again: the cap is raised once",
    ),
    pytest.param(invalid("not_json"), UNCHANGED, {}, Change(notes=(NOTE,)), id="malformed: a clarification"),
    pytest.param(
        invalid("not_json", kind=AnswerInvalidError),
        UNCHANGED,
        {},
        Change(notes=(NOTE,)),
        id="malformed text: a clarification",
    ),
    pytest.param(invalid("not_json"), Change(notes=(NOTE,)), {"reask": 1}, None, id="malformed again: enough"),
    pytest.param(
        invalid("not_json"),
        Change(notes=(NOTE,)),
        {"reask": 2},
        Change(notes=(NOTE, NOTE)),
        id="as often as allowed",
    ),
    pytest.param(invalid("not_json"), UNCHANGED, {"reask": 0}, None, id="asking again is off"),
    pytest.param(invalid("x", retriable=False), UNCHANGED, {}, None, id="a verdict that no retry mends"),
    pytest.param(BROKEN, UNCHANGED, {}, Change(breaks=1), id="broken: again"),
    pytest.param(
        BROKEN,
        Change(breaks=1),
        {},
        Change(breaks=2, streamed=False),
        id="broken twice: without streaming",
    ),
    pytest.param(BROKEN, Change(breaks=2, streamed=False), {}, None, id="broken without streaming: enough"),
    pytest.param(
        BROKEN,
        UNCHANGED,
        {"can_continue": True, "text": "half"},
        Change(prefix="half", breaks=1),
        id="broken: continued where the model can",
    ),
    pytest.param(
        BROKEN,
        Change(prefix="half", breaks=1),
        {"can_continue": True, "text": " more"},
        Change(prefix="half more", breaks=2),
        id="broken again: continued again",
    ),
    pytest.param(
        BROKEN,
        UNCHANGED,
        {"can_continue": True, "text": " \n"},
        Change(breaks=1),
        id="nothing to continue: again",
    ),
]


@pytest.mark.parametrize(("error", "change", "means", "rung"), RUNGS)
def test_rung(error, change, means, rung):
    """Each failure changes one thing before the same model is asked again, or says that nothing more would help."""
    assert recovery_step(error, change, **means) == rung


@given(
    st.lists(st.sampled_from([invalid("truncated_length"), invalid("not_json"), BROKEN]), min_size=12, max_size=12),
    st.integers(0, 3),
)
def test_ladder_ends(errors, reask):
    """Any sequence of malformed answers and broken streams runs out of rungs."""
    change, means = UNCHANGED, {"reask": reask, "max_tokens": 100}
    rungs = 0
    while change is not None and rungs < len(errors):
        change = recovery_step(errors[rungs], change, **means)
        rungs += 1

    assert change is None
    assert rungs <= 4 + reask
