"""Which parts of a project reach which provider."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blueprint_llm.context.policy import NOTHING, PROJECT_KINDS, ContextPolicy, apply, is_local, policy_for
from blueprint_llm.context.shaping import shape
from blueprint_llm.types import ChatRequest, ContextPart

KINDS = sorted(PROJECT_KINDS | {"user"})


@pytest.mark.parametrize(
    ("model", "api_base", "local"),
    [
        pytest.param("embedded/smollm2", None, True, id="embedded"),
        pytest.param("ollama/llama3", None, True, id="ollama"),
        pytest.param("ollama_chat/llama3:8b", "https://box.example.com", True, id="ollama elsewhere"),
        pytest.param("ollama/gpt-oss:cloud", None, False, id="ollama cloud tag"),
        pytest.param("ollama_chat/gpt-oss:120b-cloud", "http://localhost:11434", False, id="ollama cloud suffix"),
        pytest.param("ollama/cloud", None, True, id="a model named cloud"),
        pytest.param("lm_studio/x", None, True, id="lm studio"),
        pytest.param("openai/x", "http://localhost:8000/v1", True, id="localhost"),
        pytest.param("openai/x", "http://LOCALHOST.:8000/v1", True, id="localhost in capitals with a dot"),
        pytest.param("openai/x", "http://127.8.9.1/v1", True, id="all of 127"),
        pytest.param("openai/x", "http://[::1]:8000", True, id="IPv6 loopback"),
        pytest.param("openai/x", "http://[::ffff:127.0.0.1]:8000", True, id="mapped IPv4"),
        pytest.param("openai/x", "http://0.0.0.0:8000", True, id="unspecified"),
        pytest.param("openai/x", "localhost:8000", True, id="no scheme"),
        pytest.param("openai/x", "http://model.localhost", True, id="subdomain of localhost"),
        pytest.param("openai/x", "http://[broken", True, id="unreadable holds back"),
        pytest.param("openai/x", "", True, id="empty holds back"),
        pytest.param("openai/x", "https://api.example.com/v1", False, id="a host"),
        pytest.param("openai/x", "https://localhost.example.com/v1", False, id="a host that begins like it"),
        pytest.param("openai/x", "http://10.0.0.7:8000", False, id="another machine"),
        pytest.param("gpt-4o", None, False, id="plain id"),
    ],
)
def test_local_is_told_from_prefix_and_host(*, model: str, api_base: str | None, local: bool) -> None:
    """Embedded, Ollama and loopback hosts are local; Ollama's cloud models are not."""
    assert is_local(model, api_base) is local
    assert policy_for("p", model, api_base=api_base).shares_codebase is not local


@pytest.mark.parametrize("share", [True, False])
def test_the_configuration_wins(*, share: bool) -> None:
    """share_codebase decides whatever the guess would be."""
    for model in ("embedded/x", "gpt-4o"):
        for known in (True, False):
            assert policy_for("p", model, share_codebase=share, known=known).shares_codebase is share


def test_an_unknown_provider_gets_nothing() -> None:
    """Not even the user's own parts go to a target that no configuration names."""
    assert policy_for("p", "gpt-4o", known=False).kinds == NOTHING.kinds == frozenset()


def test_what_may_not_pass_is_said() -> None:
    """Each part that is held back has a reason that names its kind and the provider."""
    parts = [ContextPart(kind="file", source="a", text="x"), ContextPart(kind="user", source="note", text="x")]

    kept, reasons = apply(parts, policy_for("small", "ollama/llama3"))

    assert [part.source for part in kept] == ["note"]
    assert reasons == ("file: not for small: share_codebase is off",)


def test_texts_are_redacted_before_they_pass() -> None:
    """The policy's redactor rewrites texts; untouched parts keep their identity."""
    parts = [ContextPart(kind="file", source="a", text="sk-1"), ContextPart(kind="file", source="b", text="fine")]
    policy = policy_for("p", "gpt-4o", redact=lambda text: text.replace("sk-1", "***"))

    kept, _ = apply(parts, policy)

    assert kept[0].text == "***"
    assert kept[1] is parts[1]


def test_a_part_knows_its_size() -> None:
    """Tokens default to a third of the bytes; a given number stays."""
    assert ContextPart(kind="user", source="s", text="é" * 3).tokens == 2
    assert ContextPart(kind="user", source="s", text="abc", tokens=0).tokens == 0
    assert ChatRequest(
        messages=[{"role": "user", "content": "q"}], context=[{"kind": "user", "source": "s", "text": "t"}]
    )


def random_policy(draw: random.Random) -> ContextPolicy:
    """The policy of a random target."""
    model = draw.choice(["embedded/x", "ollama/y", "ollama/y:cloud", "gpt-4o", "openai/z"])
    base = draw.choice([None, "http://127.0.0.1:1/v1", "https://api.example.com"])
    return policy_for(
        "p", model, api_base=base, share_codebase=draw.choice([None, True, False]), known=draw.random() < 0.9
    )


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_ten_thousand_packs_over_chains_leak_nothing(seed: int) -> None:
    """Along 10,000 random fallback chains a target that shares no code never gets a project part, before or after."""
    draw = random.Random(seed)  # noqa: S311 - test data
    for n in range(100):
        parts = [
            ContextPart(kind=draw.choice(KINDS), source=f"s{i}", text=f"secret-{seed}-{n}-{i}")
            for i in range(draw.randint(0, 8))
        ]
        for policy in [random_policy(draw) for _ in range(draw.randint(1, 4))]:
            sent = str(shape([{"role": "user", "content": "q"}], 10_000, policy=policy, parts=parts).messages)
            for part in parts:
                assert (part.text in sent) == (part.kind in policy.kinds)
                assert part.kind == "user" or policy.shares_codebase or part.text not in sent
