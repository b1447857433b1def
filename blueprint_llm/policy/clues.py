"""What providers mean by their codes and sentences, where status and exception class do not tell: one table.

A clue's sentence must stand at the beginning of one of the provider's own sentences, and not in quotation marks: a
schema error that quotes a tool's description proves nothing. Each row names where it was seen; `owner/repository#N` is
an issue on GitHub.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class Clue:
    """What a failure means, and what it is known by."""

    category: str  # the row of `errors.CATEGORIES` that it means; `code`: its finer name, where one is known
    code: str | None = None
    source: str = ""  # where a provider was seen to say this
    # patterns (as of file names) of the codes, types or statuses in an error body, lower case, between spaces; a code
    # counts as well where it is a word of a sentence
    codes: str = ""
    says: str = ""  # how one of its sentences begins, lower case, as a regular expression; `.*` lets it stand anywhere
    unless: str = ""  # a code with which it means something else
    elsewhere: bool = False  # another target may take what this one turned down, although the category says stop
    lasting: bool = False  # it does not mend itself soon: the target rests for long

    def fits(self, sentences: Iterable[str], codes: frozenset[str]) -> bool:
        """Return True if a provider that says this means this row."""
        if self.unless in codes:
            return False
        has_code = any(fnmatchcase(code, pattern) for pattern in self.codes.split() for code in codes)
        return has_code or (bool(self.says) and any(re.match(self.says, each) for each in sentences))


def _clue(means: str, **words: str) -> Clue:
    """Return a row; `means` are its category, its code, and its flags."""
    category, code, *flags = means.split()
    return Clue(category=category, code=code, elsewhere="elsewhere" in flags, lasting="lasting" in flags, **words)


# The order is the argument: what cannot mend itself comes before what a wait or another model would mend.
CLUES: tuple[Clue, ...] = (
    # Keys.
    _clue(
        "refused missing_credentials",
        source="openai-python 3.x: OpenAIError, which LiteLLM reports as 500",
        says=r".*missing credentials|.*api_key client option must be set",
    ),
    _clue(
        "refused api_key_not_valid",
        source="google-gemini/gemini-cli#4430 (400), google-gemini/gemini-cli#4690",
        codes="invalid_api_key api_key_invalid unrecognizedclientexception expiredtokenexception",
        says=r"api key (?:not valid|not found|expired)|(?:invalid|incorrect|expired) (?:api key|x-api-key)",
    ),
    # Money and usage limits.
    _clue(
        "refused usage_limit lasting",
        source="anthropics/claude-code#2127 (400 invalid_request_error), router-for-me/CLIProxyAPI#1666 (429), "
        "continuedev/continue#10579 (Ollama's cloud, 429), hugalafutro/model-hotel#955 (Z.AI, 429)",
        codes="usage_limit_reached",
        says=r"you (?:\(\S+\) )?have reached your (?:\w+ )*usage limit|usage limit reached\b",
    ),
    _clue(
        "refused credit_balance lasting",
        source="anthropics/claude-code#4684 (400), continuedev/continue#9375 (402)",
        codes="insufficient_balance insufficient_credits",
        says=r"your credit balance is too low|insufficient (?:balance|credits)|you have run out of credits"
        r"|your (?:team|account) .*(?:used all available credits|insufficient balance)",
    ),
    _clue(
        "refused insufficient_quota lasting",
        source="openai/codex#486, continuedev/continue#11443 (Moonshot)",
        codes="insufficient_quota exceeded_current_quota_error",
        says=r"you exceeded your current quota",
        unless="resource_exhausted",  # Google says the same of a minute's limit
    ),
    _clue(
        "refused quota_exhausted lasting",
        source="google-gemini/gemini-cli#8437 (429 with a quotaId per day, and a short retryDelay), "
        "minorun365/agent-book#29 (Bedrock)",
        codes="*perday*",
        says=r"(?:.*: )?too many tokens per day",
    ),
    _clue(
        "refused billing_not_active lasting",
        source="https://platform.openai.com/docs/guides/error-codes, tencentmusic/supersonic#1572 (400)",
        codes="billing_not_active billing_hard_limit_reached billing_hard_limit arrearage accountoverdueerror",
        says=r"access denied, please make sure your account is in good standing|access denied due to overdue account"
        r"|.*billing_hard_limit",
    ),
    _clue(
        "refused account_disabled lasting",
        source="anthropics/claude-code#19028 (400)",
        says=r"this organization has been disabled",
    ),
    # Places and models that an account may not use.
    _clue(
        "refused location_not_supported lasting",
        source="google-gemini/gemini-cli#24641 (400), home-assistant/core#120072 (403)",
        codes="unsupported_country_region_territory",
        says=r"user location is not supported|country, region, or territory not supported",
    ),
    _clue(
        "refused model_not_available lasting",
        source="danny-avila/LibreChat#6926 (400), Aider-AI/aider#604 (403), "
        "langgenius/dify#2829, terricain/aioboto3#352 (400)",
        says=r"your organization must be verified|project \S+ does not have access to model"
        r"|(?:.*: )?you (?:don't|do not) have access to (?:the|this) model"
        r"|(?:.*: )?invocation of model id \S+ with on-demand throughput isn't supported"
        r"|(?:.*: )?the provided model doesn't support on-demand throughput",
    ),
    _clue(
        "not_found model_not_found",
        source="cursor/cursor#2953, strands-agents/harness-sdk#38 (400)",
        codes="model_not_found deploymentnotfound model_decommissioned",
        says=r"(?:.*: )?the provided model identifier is invalid"
        r"|(?:the )?model \S+ (?:does not exist|has been decommissioned)",
    ),
    _clue(
        "not_found no_deployment",
        source="LiteLLM's Router: ValueError, for a group none of whose deployments has the call's tags",
        says=r".*not allowed to access model due to tags configuration",
    ),
    # One request that is too much for this provider.
    _clue(
        "context_length request_too_large",
        source="continuedev/continue#10218 (413), vanna-ai/vanna-flask#11 (429)",
        codes="request_too_large",
        says=r"request too large for|extra usage is required for long context requests",
    ),
    _clue(
        "context_length maximum_context_length",
        source="what LiteLLM makes a ContextWindowExceededError of; llama.cpp's exceed_context_size_error (400), "
        "cline/cline#3120 (xAI), MoonshotAI/kimi-cli#2011",
        codes="context_length_exceeded exceed_context_size_error exceed_context_size",
        says=r".*maximum context length|prompt is too long|input is too long for requested model"
        r"|the input token count .*exceeds the maximum|this model's maximum prompt length is"
        r"|(?:.*: )?your request exceeded model token limit",
    ),
    _clue(
        "content_policy content_policy_violation",
        source="anthropics/claude-code#58367 (400, and in a stream); Azure OpenAI's content_filter (400); "
        "openai/codex#7250, deepseek-ai/DeepSeek-V2#30, langgenius/dify#7932 (DashScope), MoonshotAI/kimi-cli#1002, "
        "UKGovernmentBEIS/inspect_ai#2267 (xAI, 403), https://openrouter.ai/docs/api-reference/errors (403)",
        codes="content_policy_violation content_filter data_inspection_failed datainspectionfailed moderation_blocked",
        says=r".*content management policy|output blocked by content filtering policy|content exists risk"
        r"|(?:invalid prompt: )?your (?:prompt|input) was flagged|\S+ requires moderation on|content violates usage"
        r"|(?:<\d+> )?(?:\S+: )?(?:input|output)(?: or output)? (?:data|text) may contain inappropriate content"
        r"|your request was rejected as a result of our safety system"
        r"|the request was rejected because it was considered high risk",
    ),
    # What the model wrote was no answer.
    _clue(
        "malformed tool_use_failed",
        source="groq/groq-typescript#28 (400), thepersonalaicompany/amurex-backend#38 (400)",
        codes="tool_use_failed json_validate_failed output_parse_failed",
        says=r"failed to (?:call a function|generate json)\b",
    ),
    _clue(
        "malformed unreadable_answer",
        source="LiteLLM 1.110, for an answer of Gemini's it cannot read (422) and an error of Ollama's in a 200 (400)",
        says=r"converting to valid response block|\S+ got unexpected response from",
    ),
    _clue(
        "malformed repeated_chunk",
        source="LiteLLM's check for endless streams, reported as 500",
        says=r".*the model is repeating the same chunk",
    ),
    _clue(
        "unavailable overloaded",
        source="https://docs.anthropic.com/en/api/errors (529, and in a stream that has begun)",
        codes="overloaded_error model_overloaded",
    ),
    # Parameters that this model does not take.
    _clue(
        "invalid_request unsupported_parameter elsewhere",
        source="johny-b/llmcomp#69, npiv/chatblade#100, ollama/ollama#14795 (400), BerriAI/litellm#15097 and #33203, "
        "theopenco/llmgateway#3108 (Anthropic), ItzCrazyKns/Vane#969 and BerriAI/litellm#7580 (DeepSeek)",
        codes="unsupported_parameter unsupported_value",
        says=r"unsupported (?:parameter|value): |(?:.*: )?\S+ and \S+ cannot both be specified for this model"
        r"|(?:this model|\S+) does not support (?:tools|thinking|chat|images|vision|assistant message prefill)\b"
        r"|(?:\S+ ){1,6}is (?:not supported (?:with|by|for)|deprecated for) this model"
        r"|\S+ (?:may only|must) be .*when thinking is enabled"
        r"|(?:.*: )?(?:this )?response_format\S* \S+ is unavailable",
    ),
    _clue(
        "invalid_request unsupported_tools elsewhere",
        source="agno-agi/agno#1065 (Groq), vercel/ai#16540, googleapis/go-genai#323 (Google), vllm-project/vllm#9986",
        says=r"\S+ \S+ cannot be combined with tool/function calling"
        r"|(?:\S+ ){0,3}function calling (?:\S+ ){0,9}is unsupported"
        r"|\S+ tool choice requires --enable-auto-tool-choice",
    ),
    _clue(
        "invalid_request unsupported_input elsewhere",
        source="roboflow/awesome-openai-vision-api-experiments#11 (400), ggml-org/llama.cpp#13566 and #12947 (500)",
        says=r"\S+ is only supported by certain models|image input is not supported"
        r"|(?:.*: )?unsupported content part type",
    ),
    # Python's own words for a request that cannot be encoded, which LiteLLM reports as 500.
    _clue(
        "invalid_request cannot_be_encoded",
        source="json.dumps and httpx, wrapped by LiteLLM",
        says=r".*is not json serializable|.*not json compliant|.*surrogates not allowed|.*unsupported response_format",
    ),
)

LASTING = frozenset(clue.code for clue in CLUES if clue.lasting)


def clue_in(sentences: tuple[str, ...], codes: frozenset[str]) -> Clue | None:
    """Return the first row that the provider's sentences or codes fit."""
    words = (word for sentence in sentences for word in re.findall(r"[a-z]+(?:_[a-z]+)+", sentence))
    known = codes.union(words)
    return next((clue for clue in CLUES if clue.fits(sentences, known)), None)
