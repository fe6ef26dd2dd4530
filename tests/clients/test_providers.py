"""Each kind of provider, asked by OpenAI's Python SDK: the page's shape, to the field."""

import json

import openai
import page
import pytest

# A model of each. Text completions go on from the prompt; chat models start anew, without a blank.
MODELS = {
    "openai": (page.MODEL, page.TAGLINE),
    "together-ai": ("mistralai/Mixtral-8x7B-v0.1", page.TAGLINE),
    "groq": ("llama-3.3-70b-versatile", page.TAGLINE.lstrip()),
    "mistral-ai": ("mistral-small-latest", page.TAGLINE.lstrip()),
    "deepseek": ("deepseek-chat", page.TAGLINE),
    "anthropic": ("claude-sonnet-4-5", page.TAGLINE.lstrip()),
    "google": ("gemini-2.5-flash", page.TAGLINE.lstrip()),
}


@pytest.fixture(params=MODELS)
def provider(request):
    return request.param


@pytest.fixture
def model(provider):
    return MODELS[provider][0]


@pytest.fixture
def completions(base, provider):
    headers = {"x-portkey-provider": provider}
    client = openai.OpenAI(base_url=base, api_key="sk-demo", default_headers=headers, max_retries=0, timeout=10)
    return client.completions


def test_the_basic_example_has_the_pages_shape(completions, provider, model):
    raw = completions.with_raw_response.create(model=model, **page.BASIC)
    page.check_reply(json.loads(raw.text), model)
    assert raw.parse().choices[0].text == MODELS[provider][1]
    assert raw.headers["x-portkey-provider"] == provider
    assert raw.headers["x-portkey-retry-attempt-count"] == "0"
    assert raw.headers["x-portkey-trace-id"]
    assert raw.headers["x-request-id"]


def test_the_streaming_example_has_the_pages_shape(completions, model):
    asked = {"model": model, **page.STREAMED}
    with completions.with_streaming_response.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream")
        lines = "".join(raw.iter_text())
    *events, done, nothing = lines.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    events = [json.loads(event.removeprefix("data: ")) for event in events]
    page.check_events(events, model)
    whole = completions.create(**asked)
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == whole.choices[0].text
    assert events[-1]["usage"] == whole.usage.model_dump(exclude_none=True)


def test_the_streaming_example_prints_the_text_of_the_whole(completions, model):
    chunks = list(completions.create(model=model, **page.STREAMED, stream=True))
    whole = completions.create(model=model, **page.STREAMED)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
