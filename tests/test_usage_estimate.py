import pytest
from hypothesis import given
from hypothesis import strategies as st

from blueprint_llm.usage import Demand, demand
from blueprint_llm.usage.pricing.bounds import PER_IMAGE, PER_TOOLS, SEARCHES


def of(*content, **keywords):
    """What a request with one user message of these parts asks for."""
    return demand({"messages": [{"role": "user", "content": list(content)}], **keywords})


@given(st.text(), st.text())
def test_bytes_bound_the_tokens(one, other):
    """A prompt never counts fewer tokens than its text has bytes, and grows with it."""
    text = len((one + other).encode(errors="surrogatepass"))

    found = demand({"messages": [{"role": "user", "content": one}, {"role": "user", "content": other}]})

    assert text < found.text_tokens <= text + 64


def picture(url):
    """A picture by its address."""
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        pytest.param(picture("https://x/y"), {"images": 1}, id="linked picture"),
        pytest.param(picture("data:image/png;base64," + "x" * 10**6), {"images": 1}, id="inline picture"),
        pytest.param({"type": "image", "source": {"data": "x" * 10**6}}, {"images": 1}, id="Anthropic's picture"),
        pytest.param(
            {"type": "input_audio", "input_audio": {"data": "x" * 20_000, "format": "wav"}},
            {"audio_s": 2.0, "audio_tokens": 100},
            id="sound",
        ),
        pytest.param(
            {"type": "input_audio", "input_audio": {"data": "x" * 20_000, "format": "opus"}},
            {"audio_s": 20.0, "audio_tokens": 1000},
            id="sound of a lean codec",
        ),
        pytest.param(picture("data:audio/mp3;base64," + "x" * 978), {"audio_s": 1.0, "audio_tokens": 50}, id="as url"),
        pytest.param({"type": "audio_url", "audio_url": {"url": "https://x"}}, {"is_open": True}, id="linked sound"),
        pytest.param(
            {"type": "file", "file": {"file_data": "x" * 1000}}, {"document_tokens": 4000}, id="document by its bytes"
        ),
        pytest.param(
            {"type": "document", "source": {"type": "base64", "data": "x" * 10}},
            {"document_tokens": 40},
            id="Anthropic's document",
        ),
        pytest.param({"type": "file", "file": {"file_id": "f"}}, {"is_open": True}, id="named document"),
        pytest.param(picture("data:application/pdf;base64," + "x" * 72), {"document_tokens": 400}, id="pdf as picture"),
        pytest.param({"type": "video_url", "video_url": {"url": "https://x"}}, {"is_open": True}, id="linked film"),
    ],
)
def test_every_kind_of_content_counts_as_itself(part, wanted):
    """Pictures, sound and documents are told apart, inline or only named, and their base64 is no text."""
    found, text = of(part), of({"type": "text", "text": ""})

    assert {name: getattr(found, name) for name in wanted} == wanted
    assert found.text_tokens < text.text_tokens + 50


def test_what_a_tool_returned_counts_by_its_parts():
    """Text and pictures inside a tool's result are counted like any other."""
    inner = [{"type": "text", "text": "x" * 100}, {"type": "image", "source": {"data": "y" * 10**6}}]

    found = of({"type": "tool_result", "tool_use_id": "1", "content": inner})

    assert found.images == 1
    assert 100 < found.text_tokens < 250


def test_the_past_counts_whole():
    """An assistant's calls and reasoning are sent again, and count."""
    past = {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "y" * 500}}]}

    assert demand({"messages": [past]}).text_tokens > 500
    assert (
        demand({"messages": [{"role": "assistant", "content": "", "reasoning_content": "z" * 500}]}).text_tokens > 500
    )


@pytest.mark.parametrize(
    ("keywords", "wanted"),
    [
        pytest.param({"input": "x" * 100}, {"characters": 100}, id="speech"),
        pytest.param({"input": ["a" * 50, "b" * 50]}, {"characters": 0}, id="embeddings"),
        pytest.param({"file": b"x" * 7500}, {"audio_s": 10.0}, id="transcription of bytes"),
        pytest.param({"file": ("a.mp3", b"x" * 7500)}, {"audio_s": 10.0}, id="transcription of a named file"),
        pytest.param({"file": object()}, {"audio_s": 25 * 2**20 * 4 / 3 / 1000}, id="transcription of who knows what"),
        pytest.param({"prompt": "a cat", "n": 3}, {"answers": 3}, id="pictures"),
        pytest.param({"image": [b"1", b"2"]}, {"images": 2}, id="pictures to be changed"),
        pytest.param({"image": b"1"}, {"images": 1}, id="a picture to be changed"),
        pytest.param({"modalities": ["text", "audio"]}, {"speaks": True}, id="spoken answer"),
        pytest.param({"audio": {"voice": "alloy"}}, {"speaks": True}, id="a voice"),
        pytest.param({"service_tier": "flex"}, {"tier": "flex"}, id="tier"),
        pytest.param({"speed": "fast"}, {"is_fast": True}, id="fast mode"),
        pytest.param({"web_search_options": {}}, {"searches": SEARCHES, "is_open": True}, id="search"),
        pytest.param(
            {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]},
            {"searches": 3, "is_open": True},
            id="search with a limit",
        ),
        pytest.param({"tools": [{"googleSearch": {}}]}, {"searches": SEARCHES, "is_open": True}, id="Google's search"),
        pytest.param({"tools": [{"type": "code_interpreter"}]}, {"sessions": 1, "is_open": True}, id="their code"),
        pytest.param(
            {"tools": [{"type": "function", "function": {"name": "web_search"}}]},
            {"searches": 0, "is_open": False},
            id="a function of ours",
        ),
        pytest.param({"n": "many"}, {"answers": 1}, id="no number of answers"),
        pytest.param({"cache_control_injection_points": [{"location": "message"}]}, {"keeps_cache": True}, id="cache"),
    ],
)
def test_keywords_say_what_may_be_billed(keywords, wanted):
    """Every endpoint's own words are understood."""
    found = demand(keywords)

    assert {name: getattr(found, name) for name in wanted} == wanted


@pytest.mark.parametrize(("ttl", "keeps"), [("5m", False), ("1h", True)])
def test_a_cached_prefix_may_live_longer(ttl, keeps):
    """Cache writes for an hour are asked for part by part."""
    part = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": ttl}}

    assert of(part).keeps_cache is keeps


def test_tools_count():
    """Tool schemas are part of the prompt, with what a provider adds for them."""
    tool = {"type": "function", "function": {"name": "t" * 100}}

    assert of("x", tools=[tool]).text_tokens > of("x").text_tokens + 100 + PER_TOOLS


def test_all_of_a_prompt():
    """Text, sound, documents and pictures add up."""
    asked = Demand(text_tokens=1, audio_tokens=10, document_tokens=100, images=2)

    assert asked.input_tokens == 111 + 2 * PER_IMAGE
