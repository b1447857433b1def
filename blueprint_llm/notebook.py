"""Records for people: a plan as Markdown and Mermaid, and small HTML tables for notebooks, every cell escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def markdown(plan: Any) -> str:
    """The plan as a Markdown document."""
    lines = [f"# Plan {plan.id} (revision {plan.revision})", "", plan.overview, ""]
    for step in plan.steps:
        after = f" (after {', '.join(step.depends_on)})" if step.depends_on else ""
        lines += [f"## {step.id}. {step.title}{after}", "", *([step.description, ""] if step.description else [])]
        lines += [f"- [ ] {item}" for item in step.acceptance]
        lines += [f"- {change.op} `{change.path}`" for change in step.files] + [""]
    return "\n".join(lines)


def mermaid(plan: Any) -> str:
    """The dependency graph as a Mermaid flowchart."""
    nodes = [f'    {step.id}["{step.title.replace(chr(34), "#quot;")}"]' for step in plan.steps]
    edges = [f"    {before} --> {step.id}" for step in plan.steps for before in step.depends_on]
    return "\n".join(["flowchart TD", *nodes, *edges])


def plan_table(plan: Any) -> str:
    """The steps of a plan."""
    rows = [
        (s.id, s.title, ", ".join(s.depends_on), ", ".join(s.covers), ", ".join(f.path for f in s.files), s.status)
        for s in plan.steps
    ]
    caption = f"Plan {plan.id} (revision {plan.revision}): {plan.overview}"
    return _table(caption, ("step", "title", "after", "covers", "files", "status"), rows)


def usage_table(stats: Any) -> str:
    """The totals by model."""
    head = ("model", "calls", "errors", "tokens in", "out", "cost", "p50 s", "p95 s", "cache hits", "saved")
    rows = []
    for name, each in (*sorted(stats.by_model.items()), ("total", stats)):
        tokens, latency = (each.prompt_tokens, each.completion_tokens), (each.latency_p50_s, each.latency_p95_s)
        saved = (each.cache_hits, _usd(each.saved_usd))
        rows.append((name, each.calls, each.errors, *tokens, _usd(each.cost_usd), *latency, *saved))
    return _table("Usage", head, rows)


def route_table(decision: Any) -> str:
    """Whom a call would ask, and why not the others."""
    worst = _usd(decision.estimate.get("worst_cost_usd"))
    caption = f"Rule {decision.rule}, chain {decision.chain or '-'}, at most {worst}, cache {decision.cache}"
    rows = [(row.verdict, row.provider, row.model, row.reason) for row in decision.considered]
    return _table(caption, ("verdict", "provider", "model", "reason"), rows)


def model_table(model: Any) -> str:
    """What is known of a model, and whether it can be called."""
    head = ("provider", "model", "input tokens", "output tokens", "tools", "available")
    known = {None: None, True: "yes", False: "no"}
    available = "yes" if model.available else f"no: {model.reason}"
    row = (model.provider, model.id, model.max_input_tokens, model.max_output_tokens, known[model.supports_tools])
    return _table("Model", head, [(*row, available)])


def answer_table(response: Any) -> str:
    """An answer, who gave it and what it took."""
    usage, calls = response.usage, [f"{call.name}({call.arguments})" for call in response.tool_calls]
    took = (usage.prompt_tokens, usage.completion_tokens, _usd(usage.estimated_cost)) if usage else (None, None, None)
    head = ("answer", "tool calls", "finish", "tokens in", "out", "cost")
    caption = f"{response.provider}: {response.model}{', from the cache' if response.metadata.get('cached') else ''}"
    return _table(caption, head, [(response.content, ", ".join(calls), response.finish_reason, *took)])


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["".join(f"<th>{escape(name)}</th>" for name in head), *("".join(map(_cell, row)) for row in rows)]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table><caption style="text-align:left">{escape(caption)}</caption>{body}</table>'


def _cell(value: Any) -> str:
    """A number is set right, None is a dash."""
    side = "right" if isinstance(value, int | float) else "left"
    text = f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)
    return f'<td style="text-align:{side}">{escape(text)}</td>'


def _usd(value: float | None) -> str:
    """An amount; unknown is not zero."""
    return "unknown" if value is None else f"${value:.6f}"
