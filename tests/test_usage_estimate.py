import pytest
from hypothesis import given
from hypothesis import strategies as st

from blueprint_llm.usage import Margins, upper_bound, worth_counting


def user(content, **rest):
    """A user's message."""
    return {"role": "user", "content": content, **rest}


@given(st.text(), st.text())
def test_bytes_bound_the_tokens(one, other):
    """A prompt never counts fewer tokens than its text has bytes, and grows with it."""
    text = len((one + other).encode(errors="surrogatepass"))

    assert text < upper_bound([user(one), user(other)]) <= text + 32


@pytest.mark.parametrize(
    ("message", "least", "most"),
    [
        pytest.param(user(None), 0, 16, id="no content"),
        pytest.param(user([{"type": "text", "text": "x" * 100}]), 100, 132, id="text part"),
        pytest.param(
            user([{"type": "image_url", "image_url": {"url": "data:" + "x" * 10**6}}]), 5000, 5016, id="inline picture"
        ),
        pytest.param(user([{"type": "image_url", "image_url": {"url": "https://x"}}]), 5000, 5016, id="linked picture"),
        pytest.param(user([{"type": "file", "file": {"file_data": "x" * 1000}}]), 1000, 1100, id="file by its bytes"),
        pytest.param(user(["bare"]), 4, 20, id="bare text in a list"),
        pytest.param(
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "y" * 500}}]},
            500,
            600,
            id="tool calls of the past",
        ),
    ],
)
def test_every_part_of_a_message_counts(message, least, most):
    """Text counts by its bytes, a picture by what the dearest provider takes, anything else by its JSON."""
    assert least <= upper_bound([message]) <= most


def test_tools_count():
    """Tool schemas are part of the prompt, with what a provider adds for them."""
    assert upper_bound([user("x")], [{"name": "t" * 100}]) > upper_bound([user("x")]) + 600


@pytest.mark.parametrize(
    ("bound", "left", "worth"),
    [(11, 1000, True), (10, 1000, False), (10**9, None, False), (None, 5, False), (1, 0, True)],
)
def test_counting_is_worth_it_above_one_percent(bound, left, worth):
    """A tokenizer is only asked when the bound would cost more than 1 % of what is left."""
    assert worth_counting(bound, left) is worth


def test_margin_is_learnt():
    """A count is widened until bills show that it is right; one bad surprise widens it at once; bytes stay a bound."""
    margins = Margins()
    assert margins.refine("m", 10_000, 1000) == 1800

    for _ in range(100):
        margins.learn("m", 1000, 1000)
    assert margins.refine("m", 10_000, 1000) == 1001
    margins.learn("m", 1000, 2000)
    margins.learn("m", 0, 5)

    assert margins.refine("m", 10_000, 1000) == 2000
    assert margins.refine("m", 1500, 1000) == 1500
    assert margins.refine("other", 10_000, 1000) == 1800
