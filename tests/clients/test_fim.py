"""Mistral's SDK asks for what stands in a gap, and gets it in Mistral's shape from whoever can fill one."""

import json
import re

import httpx
import mistralai.client
import pytest
from mistralai.client import errors

import processes

# Mistral itself at both its addresses, an API with a suffix of its own, and servers that take a raw prompt alone.
MODELS = {
    "mistral-ai": "codestral-latest",
    "codestral": "codestral-latest",
    "deepseek": "deepseek-chat",
    "ollama": "qwen2.5-coder:7b",
    "tgi": "bigcode/starcoder2-15b",
    "vllm": "Qwen/Qwen2.5-Coder-7B",
}
GAP = {"prompt": "def add(a, b):\n    ", "suffix": "\n\nadd(1, 2)\n", "max_tokens": 20}


@pytest.fixture(params=MODELS)
def provider(request):
    return request.param


@pytest.fixture
def ask(provider):
    return dict(model=MODELS[provider], http_headers={"x-portkey-provider": provider}, **GAP)


@pytest.fixture
def fim(base):
    return client(base.removesuffix("/v1")).fim


def client(url):
    return mistralai.client.Mistral(api_key="sk-demo", server_url=url)


def text_of(answer) -> str:
    return answer.choices[0].message.content


def test_a_gap_is_filled_in_mistrals_shape(fim, ask):
    answer = fim.complete(**ask)
    assert (answer.object, answer.model) == ("chat.completion", ask["model"])
    [choice] = answer.choices
    assert (choice.index, choice.message.role, choice.finish_reason) == (0, "assistant", "stop")
    assert choice.message.content.strip()
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens == len(text_of(answer).split())
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_what_stands_behind_the_gap_counts(fim, ask):
    other = fim.complete(**{**ask, "suffix": "\n\nsub(1, 2)\n"})
    assert text_of(other) != text_of(fim.complete(**ask))


def test_a_stream_says_the_same_and_counts_at_its_end(fim, ask):
    whole = fim.complete(**ask)
    events = [event.data for event in fim.stream(**ask)]
    assert all(len(event.choices) == 1 for event in events)
    assert {event.object for event in events} == {"chat.completion.chunk"}
    assert "".join(event.choices[0].delta.content for event in events) == text_of(whole)
    assert [event.choices[0].finish_reason for event in events][-1] == "stop"
    assert all(not event.choices[0].finish_reason for event in events[:-1])
    assert events[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(event.usage is None for event in events[:-1])


def test_a_limit_cuts_and_parameters_are_taken(fim, ask):
    short = fim.complete(**{**ask, "max_tokens": 2}, temperature=0.5, top_p=0.5, stop=["\n\n\n"])
    assert len(text_of(short).split()) == 2
    assert short.choices[0].finish_reason == "length"


def test_a_seed_is_taken_or_refused_under_its_own_name(fim, ask, provider):
    if provider != "deepseek":
        assert fim.complete(**ask, random_seed=7).choices
        return
    with pytest.raises(errors.SDKError) as told:
        fim.complete(**ask, random_seed=7)
    assert json.loads(told.value.body)["error"]["param"] == "random_seed"


def test_who_cannot_fill_a_gap_says_so(fim):
    for provider in ("groq", "vllm"):
        with pytest.raises(errors.SDKError) as told:
            fim.complete(model="llama-3.3-70b", http_headers={"x-portkey-provider": provider}, **GAP)
        assert told.value.status_code == 400
        error = json.loads(told.value.body)
        assert error["error"]["param"] == "suffix"


@pytest.mark.parametrize("stream", [False, True])
def test_mistrals_own_bytes_pass(base, tmp_path, stream):
    body = {"model": "codestral-latest", "stream": stream, **GAP}
    with processes.emulator(tmp_path) as mistral:
        direct = post(mistral, body)
    for provider in ("mistral-ai", "codestral"):
        assert post(base.removesuffix("/v1"), body, provider) == direct


def post(url: str, body: dict, provider: str = "") -> str:
    headers = {"authorization": "Bearer sk-demo", "x-portkey-provider": provider}
    answer = httpx.post(f"{url}/v1/fim/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    # The time, which the emulator's ids hold too, differs from call to call.
    return re.sub(r'"(created|id)":("\w*-?\w+"|\d+)', r'"\1":0', answer.text)
