"""The records that callers hand in and get back.

Requests accept mappings in OpenAI's shape and keep what they do not know; answers are frozen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from blueprint_llm import notebook as showing
from blueprint_llm.errors import BlueprintError

V = TypeVar("V", bound="View")
Role = Literal["system", "user", "assistant", "tool"]
Content = str | list[Any] | None


class Record(BaseModel):
    """A frozen record; unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())


class View(Record):  # noqa: PLW1641 - pydantic makes each of its frozen records a hash of its fields
    """A record that shows a part of an object of LiteLLM's and carries the whole of it at `raw`.

    The original is no field: it is in no repr and no dump, and two records that show the same are equal.
    """

    _raw: Any = PrivateAttr(default=None)

    @property
    def raw(self) -> Any:
        """LiteLLM's own object, complete; None where there is none."""
        if isinstance(self._raw, _Later):
            self._raw = self._raw.make()
        return self._raw

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __getstate__(self) -> dict[Any, Any]:
        _ = self.raw  # what makes it may be a closure, which no pickle takes
        return super().__getstate__()


class _Later(NamedTuple):
    """An original that is made when somebody asks for it."""

    make: Callable[[], Any]


def with_raw(view: V, raw: Any = None, *, make: Callable[[], Any] | None = None) -> V:
    """Return `view`, which the caller has just made, after giving it its original, or a function that makes it.

    `make` is for what comes out of the cache: LiteLLM is imported only for a caller who asks for its object.
    """
    view._raw = raw if make is None else _Later(make)  # noqa: SLF001 - set once, by its maker
    return view


class ChatMessage(Record):
    """One message in OpenAI's shape; unknown keys (`cache_control`, ...) are kept and passed on unchanged."""

    model_config = ConfigDict(frozen=True, extra="allow")

    role: Role
    content: Content = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The message as the caller wrote it: only the keys that were set."""
        return self.model_dump(exclude_unset=True)


class Tool(Record):
    """A function the model may call; `parameters` is a JSON Schema. Accepts OpenAI's nested shape.

    A dict that says more (`cache_control`), or is a provider's own tool (searches, `type: custom`), is sent as given.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    _given: dict[str, Any] | None = PrivateAttr(default=None)

    name: str = Field(min_length=1)
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})

    @model_validator(mode="wrap")
    @classmethod
    def _unwrap_openai(cls, value: Any, make: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, Mapping):
            return make(value)
        function, kind = value.get("function"), value.get("type")
        if isinstance(function, Mapping):
            tool, is_plain = make(function), value.keys() <= {"type", "function"}
        elif isinstance(kind, str) and kind != "function":
            tool, is_plain = make({"name": value.get("name") or kind}), False
        elif len(value) == 1 and not value.keys() & {"name", "type", "parameters"}:
            tool, is_plain = make({"name": next(iter(value))}), False  # Gemini's have no type: `{"googleSearch": {}}`
        else:
            tool, is_plain = make(value), "input_schema" not in value
        if not is_plain:
            tool._given = dict(value)  # noqa: SLF001 - of the one that is made here
        return tool

    @field_validator("parameters")
    @classmethod
    def _is_json(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError("is not JSON: a tool's parameters are a JSON Schema of plain values") from None
        return value

    @model_serializer(mode="wrap")
    def _dump_as_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return self._given or dump(self)

    @property
    def given(self) -> dict[str, Any] | None:
        """The dict that is sent unchanged; None: nothing beyond the fields was given."""
        return self._given

    def to_dict(self) -> dict[str, Any]:
        """OpenAI's shape, or what was given."""
        return self._given or {"type": "function", "function": self.model_dump(exclude_unset=True)}


class ContextPart(Record):
    """A piece of context whose origin is known, so that a provider's policy can let it pass or hold it back.

    Attributes:
        kind: `user` is the caller's own text; every other kind counts as derived from the project.
        source: A POSIX path relative to the project, or a name.
        tokens: Its estimated size; by default a third of its UTF-8 bytes.
        share: How much of the project's text it holds, 0 to 1.
    """

    kind: Literal["project_map", "file", "snippet", "diff", "tool_result", "memory", "user"]
    source: str
    text: str
    tokens: int = Field(default=-1, ge=-1)
    share: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _estimate_tokens(self) -> ContextPart:
        if self.tokens < 0:
            object.__setattr__(self, "tokens", -(-len(self.text.encode("utf-8", "replace")) // 3))
        return self


class ChatRequest(Record):
    """One request. Keywords that are not listed here land in `params` and reach LiteLLM unchanged.

    Attributes:
        messages: At least one message.
        model: A `model_list` group or a LiteLLM model id.
        provider: A key of `providers`: that target first, the chain follows.
        task_type: What `routes` rules match on.
        deadline_s: Overrides `deadline.total_s`, seconds.
        cache: False bypasses the response cache.
        cache_ttl_s: How long this answer is kept, and the oldest kept one that will do, seconds.
        fallback: False stops at the first target.
        check_answer: False leaves it to the caller to check tool calls and structured answers and to ask again.
        as_written: True sends messages, tools and parameters unchanged, to any target, and asks for LiteLLM's own
            chunks and exceptions.
        context: Typed parts, best first; on every hop each target gets only those that its policy allows.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = None
    provider: str | None = None
    temperature: float | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    top_p: float | None = None
    stop: Annotated[list[str] | None, BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = None
    tools: list[Tool] | None = None
    metadata: dict[str, Any] | None = None
    task_type: str | None = None
    session: str | None = None
    project: str | None = None
    deadline_s: float | None = Field(default=None, gt=0)
    cache: bool | None = None
    cache_ttl_s: float | None = Field(default=None, gt=0)
    fallback: bool = True
    check_answer: bool = True
    as_written: bool = False
    context: tuple[ContextPart, ...] = ()
    params: dict[str, Any] = Field(default_factory=dict)

    @field_validator("params")
    @classmethod
    def _counts_are_whole(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in ("n", "max_completion_tokens"):
            count = value.get(name)
            if count is not None and (type(count) is not int or count < 1):
                raise ValueError(f"{name} must be a whole number from 1 up")
        return value

    @model_validator(mode="before")
    @classmethod
    def _collect_params(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        fields = cls.__pydantic_fields__
        extra = {key: item for key, item in value.items() if key not in fields}
        if not extra:
            return value
        known = {key: item for key, item in value.items() if key in fields}
        return {**known, "params": {**known.get("params", {}), **extra}}


class UsageInfo(View):
    """Tokens and cost of one answer; `raw` is LiteLLM's whole `Usage`.

    `estimated_cost` is USD; None means unknown, never 0 for unknown.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    estimated_cost: float | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0
    source: Literal["provider", "estimated"] = "provider"


class ToolCall(Record):
    """A complete call whose arguments passed validation. Only the stream validator makes one."""

    id: str
    name: str
    arguments: dict[str, Any]


class PartialToolCall(Record):
    """A piece of a call that is still being written: for display only, the tool engine refuses it."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments_delta: str = ""


class ToolResult(Record):
    """What became of a tool call. `duration_s` in seconds."""

    tool_call_id: str
    name: str
    status: Literal["ok", "error", "denied", "timeout", "unknown"]
    content: str
    truncated: bool = False
    duration_s: float = 0.0
    audit_seq: int | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    def to_message(self) -> ChatMessage:
        """The `tool` message that answers the call."""
        return ChatMessage(role="tool", tool_call_id=self.tool_call_id, name=self.name, content=self.content)


class ChatResponse(View):
    """One whole answer; `raw` is LiteLLM's own `ModelResponse`.

    Attributes:
        provider: The key of `providers`, else the group, else LiteLLM's provider name.
        model: The LiteLLM model id that was sent.
        metadata: `trace`, `cached`, `deployment`.
        message: The assistant's message exactly as it must be sent back.
        reasoning: What the model thought, where the provider shows it.
    """

    content: str
    finish_reason: str | None = None
    usage: UsageInfo | None = None
    tool_calls: list[ToolCall] = Field(default_factory=list)
    provider: str
    model: str
    metadata: dict[str, Any] = Field(default_factory=dict)
    message: dict[str, Any] = Field(default_factory=dict, repr=False)
    reasoning: str | None = Field(default=None, repr=False)

    @property
    def trace(self) -> Mapping[str, Any]:
        """What the library did for this answer (API section 6)."""
        trace: Mapping[str, Any] = self.metadata.get("trace", {})
        return trace

    _repr_html_ = showing.answer_table


class StreamChunk(View):
    """One step of a stream; `raw` is LiteLLM's chunk.

    Attributes:
        delta: New text, maybe empty.
        reasoning: New text of the model's thoughts, where the provider shows them.
        tool_calls: Only complete, validated calls.
        error: Recovered trouble; the stream goes on.
        restart: The text so far is void: the answer starts again.
    """

    delta: str = ""
    reasoning: str = Field(default="", repr=False)
    is_done: bool = False
    usage: UsageInfo | None = None
    tool_call: PartialToolCall | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    error: BlueprintError | None = None
    restart: bool = False
    provider: str
    model: str | None = None


class ModelInfo(Record):
    """A model that the configuration can reach. Windows in tokens; `price` in USD per million tokens."""

    id: str
    provider: str
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    supports_tools: bool | None = None
    price: dict[str, float] | None = None
    available: bool = True
    reason: str | None = None

    _repr_html_ = showing.model_table


class UsageFilter(Record):
    """Which attempts to count; `since` and `until` are a half-open range, naive times are UTC."""

    provider: str | None = None
    model: str | None = None
    session: str | None = None
    project: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class UsageTotals(Record):
    """Sums over attempts. Costs in USD, latencies in seconds; `unpriced` attempts add nothing to the cost."""

    calls: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    cache_hits: int = 0
    saved_usd: float = 0.0

    @field_serializer("cost_usd", when_used="json")
    def _unknown_is_no_number(self, usd: float) -> float | None:
        return usd or (None if self.unpriced else 0.0)


class UsageStats(UsageTotals):
    """The totals, and the same by provider, model, session and project."""

    by_provider: dict[str, UsageTotals] = Field(default_factory=dict)
    by_model: dict[str, UsageTotals] = Field(default_factory=dict)
    by_session: dict[str, UsageTotals] = Field(default_factory=dict)
    by_project: dict[str, UsageTotals] = Field(default_factory=dict)

    _repr_html_ = showing.usage_table


class Considered(Record):
    """A target that routing looked at, and what it decided."""

    provider: str
    model: str
    verdict: Literal["chosen", "standby", "skipped"]
    reason: str


class RouteDecision(Record):
    """What a call would do, and why. `estimate` has `input_tokens` and `worst_cost_usd` (None: price unknown)."""

    targets: list[dict[str, Any]] = Field(default_factory=list)
    rule: str
    chain: str | None = None
    considered: list[Considered] = Field(default_factory=list)
    estimate: dict[str, Any] = Field(default_factory=dict)
    cache: Literal["hit", "miss", "off"] = "off"
    budgets: list[dict[str, Any]] = Field(default_factory=list)
    trace: dict[str, Any] = Field(default_factory=dict)

    _repr_html_ = showing.route_table


class FileChange(Record):
    """A file that a step touches: POSIX path relative to the codebase. A bare string means edit."""

    path: str
    op: Literal["read", "edit", "create", "delete"] = "edit"

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class PlanStep(Record):
    """One step of a plan; `covers` names requirements (`R1`, ...), `depends_on` other steps."""

    id: str
    title: str
    description: str = ""
    depends_on: list[str] = Field(default_factory=list)
    covers: list[str] = Field(default_factory=list)
    files: list[FileChange] = Field(default_factory=list)
    acceptance: list[str] = Field(default_factory=list)
    suggested_model: str | None = None
    estimated_cost_usd: dict[str, float] | None = None
    status: Literal["pending", "in_progress", "done", "failed"] = "pending"


class Plan(Record):
    """A plan whose `hash` binds an approval to its exact content (status and revision aside)."""

    id: str
    revision: int = 1
    overview: str
    steps: list[PlanStep]
    estimated_complexity: Literal["low", "medium", "high"] = "medium"
    suggested_models: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)
    hash: str = ""

    @model_validator(mode="after")
    def _seal(self) -> Plan:
        steps = [step.model_dump(mode="json", exclude={"status"}) for step in self.steps]
        text = json.dumps([self.overview, steps, self.estimated_complexity], sort_keys=True)
        object.__setattr__(self, "hash", hashlib.sha256(text.encode()).hexdigest())
        return self

    def to_markdown(self) -> str:
        """The plan as a Markdown document."""
        return showing.markdown(self)

    def to_mermaid(self) -> str:
        """The dependency graph as a Mermaid flowchart."""
        return showing.mermaid(self)

    _repr_html_ = showing.plan_table


class PlanningContext(Record):
    """What planning starts from; `codebase` is a folder or a list of files."""

    goal: str
    requirements: list[str] = Field(default_factory=list)
    constraints: list[str] = Field(default_factory=list)
    previous_plans: list[Plan] = Field(default_factory=list)
    codebase: Path | list[Path] | None = None

    @field_validator("goal")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty: say what the plan is for")
        return value
