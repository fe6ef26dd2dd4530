"""Load generators and harnesses that are too heavy to install: their requests and their way to read an answer.

`vllm bench serve`: `async_request_openai_completions` and `StreamedResponseHandler` in
https://github.com/vllm-project/vllm/blob/v0.32.0/vllm/benchmarks/lib/endpoint_request_func.py
HELM: `OpenAILegacyCompletionsClient` in
https://github.com/stanford-crfm/helm/blob/main/src/helm/clients/openai_client.py
"""

import http.client
import json
from urllib.parse import urlsplit

import openai
import page
import processes
import pytest

PROMPT = page.BASIC["prompt"]


def bench(base: str, model: str, provider: str | None = None, prompt=PROMPT, **more) -> dict:
    """What `vllm bench serve` measures: the text, the events that have a choice, the usage of one that has none."""
    body = {
        "model": model,
        "prompt": prompt,
        "repetition_penalty": 1.0,
        "max_tokens": 20,
        "logprobs": None,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-demo", "x-request-id": "bench-1"}
    if provider:
        headers["x-portkey-provider"] = provider
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=10)
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    response = connection.getresponse()
    events, buffer = [], ""
    # As it comes in, each piece without its blanks: an event over two pieces would lose some.
    while piece := response.read1(65536):
        buffer += piece.decode().strip()
        *messages, buffer = buffer.split("\n\n")
        if is_complete(buffer.removeprefix("data: ")):
            messages, buffer = [*messages, buffer], ""
        events += [message.removeprefix("data: ") for message in messages if not message.startswith(":")]
    connection.close()
    assert (response.status, buffer) == (200, ""), events or buffer
    assert events.pop() == "[DONE]"
    events = [json.loads(event) for event in events]
    told = [event for event in events if event["choices"]]
    [usage] = [event["usage"] for event in events if not event["choices"]]
    text = "".join(event["choices"][0]["text"] for event in told)
    return {"text": text, "events": len(told), "usage": [usage["prompt_tokens"], usage["completion_tokens"]]}


def is_complete(data: str) -> bool:
    try:
        data == "[DONE]" or json.loads(data)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("prompt", [PROMPT, [84, 104, 101, 32]], ids=["text", "token ids"])
def test_vllm_bench_measures_llama_cpp_as_without_the_gateway(direct, through, prompt):
    asked = {"model": "tiny", "prompt": prompt, "temperature": 0, "ignore_eos": True}
    measured = bench(through, **asked)
    assert measured == {**bench_directly(direct, **asked), "events": measured["events"]}
    # One for each token, and one for the reason of its end.
    assert measured["events"] in (20, 21)


def bench_directly(base: str, **asked) -> dict:
    """llama.cpp tells its usage beside the last choice, where the benchmark does not look."""
    with openai.OpenAI(base_url=base, api_key="sk-unused", max_retries=0, timeout=10) as client:
        more = {"extra_body": {"ignore_eos": asked.pop("ignore_eos")}}
        whole = client.completions.create(**asked, max_tokens=20, **more)
    return {"text": whole.choices[0].text, "usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens]}


def test_vllm_bench_measures_a_text_provider(base):
    measured = bench(base, page.MODEL, "openai", ignore_eos=True)
    assert (measured["text"], measured["usage"]) == (page.TAGLINE, [8, 5])
    assert measured["events"] > 2


@pytest.mark.parametrize("provider, model", [("groq", "llama-3.3-70b-versatile"), (None, "claude-sonnet-4-5")])
def test_vllm_bench_measures_a_chat_only_provider(base, chat_only, provider, model):
    measured = bench(base if provider else chat_only, model, provider)
    assert (measured["text"], measured["usage"]) == (page.TAGLINE.lstrip(), [8, 5])
    assert measured["events"] > 2


def helm(base: str, model: str, provider: str | None = None, top_k: int = 1, n: int = 1, **more) -> list[dict]:
    """HELM's completions: texts with their tokens, and the sum of their log-probabilities."""
    headers = {"x-portkey-provider": provider} if provider else {}
    client = openai.OpenAI(base_url=base, api_key="sk-demo", default_headers=headers, max_retries=0, timeout=10)
    asked = {
        "model": model,
        "prompt": PROMPT,
        "temperature": 0.0,
        "n": n,
        "max_tokens": 20,
        "best_of": max(top_k, n),
        "logprobs": max(top_k, n),
        "stop": None,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "echo": False,
        **more,
    }
    answer = client.completions.create(**asked).model_dump(mode="json")
    read = []
    for choice in answer["choices"]:
        scored = choice["logprobs"]
        tokens = list(zip(scored["tokens"], scored["token_logprobs"], strict=True))
        total = sum(logprob or 0 for _, logprob in tokens)
        read.append({"text": choice["text"], "tokens": tokens, "logprob": total, "reason": choice["finish_reason"]})
    return read


@pytest.fixture(scope="module")
def scored(direct, tmp_path_factory):
    folder = tmp_path_factory.mktemp("helm")
    with (
        processes.scoring(direct, folder) as scoring,
        processes.before(scoring, folder, provider="vllm") as before,
    ):
        yield scoring, before


# `echo` with `max_tokens` 0: a prompt's own log-probability.
@pytest.mark.parametrize("more", [{}, {"echo": True}, {"echo": True, "max_tokens": 0}], ids=json.dumps)
def test_helm_reads_what_a_server_scores(scored, more):
    scoring, before = scored
    [read] = helm(before, "tiny", **more)
    assert [read] == helm(scoring, "tiny", **more)
    assert read["logprob"] < 0 and "".join(token for token, _ in read["tokens"]) == read["text"]
    assert read["text"].startswith(PROMPT) == ("echo" in more)


@pytest.mark.parametrize("more", [{}, {"echo": True}, {"n": 2, "top_k": 3}], ids=json.dumps)
def test_helm_reads_a_text_providers_answer(base, more):
    read = helm(base, page.MODEL, "openai", **more)
    assert len(read) == more.get("n", 1)
    for choice in read:
        assert choice["logprob"] < 0
        assert "".join(token for token, _ in choice["tokens"]) == choice["text"]


def test_helm_is_refused_by_name_where_a_provider_has_no_log_probabilities(chat_only):
    with pytest.raises(openai.BadRequestError) as raised:
        helm(chat_only, "claude-sonnet-4-5")
    assert raised.value.param == "logprobs"
    with pytest.raises(openai.BadRequestError) as raised:
        helm(chat_only, "claude-sonnet-4-5", n=2, top_k=3)
    assert raised.value.param in ("n", "best_of", "logprobs")
