"""The gateway before a server that nobody here wrote: llama.cpp's answers, through it and without it, are the same."""

import http.client
import json
import time
from urllib.parse import urlsplit

import openai
import pytest

GREEDY = {"model": "tiny", "prompt": "The License", "temperature": 0, "max_tokens": 24}
SEEDED = {"model": "tiny", "prompt": "The License", "temperature": 1, "seed": 7, "max_tokens": 24}
# OpenAI's default; llama.cpp's own is to go on until its memory is full.
DEFAULT_MAX_TOKENS = 16
# A grammar lets the model write what it would not.
UNICODE = "äöü 日本語 😀\n"

ASKED = {
    "a text": GREEDY,
    "a seed": SEEDED,
    "a unicode prompt": {**SEEDED, "prompt": "naïve 日本 😀"},
    "a unicode answer": {**GREEDY, "grammar": f"root ::= {json.dumps(UNICODE, ensure_ascii=False)}", "max_tokens": 64},
    "token ids": {**GREEDY, "prompt": [84, 104, 101]},
    "one list of token ids": {**GREEDY, "prompt": [[84, 104, 101]]},
    "a list of one prompt": {**GREEDY, "prompt": ["The License"]},
    "a list of prompts": {**SEEDED, "prompt": ["The License", "Subject to"]},
    "two lists of token ids": {**SEEDED, "prompt": [[84, 104, 101], [97]]},
    "two choices": {**SEEDED, "n": 2},
    "a stop sequence": {**GREEDY, "stop": "e"},
    "stop sequences": {**SEEDED, "stop": ["\n", "q", "e", "t"]},
    "its own end": {**SEEDED, "max_tokens": 2000},
    "one token": {**GREEDY, "max_tokens": 1},
    "nulls": {**GREEDY, "stop": None, "n": None, "logit_bias": None},
    "penalties": {**GREEDY, "presence_penalty": 1.5, "frequency_penalty": 0.5, "top_p": 0.5},
    "a parameter of its own": {**GREEDY, "repeat_penalty": 1.5, "top_k": 5},
}


@pytest.fixture(params=ASKED)
def asked(request):
    return ASKED[request.param]


def ask(url: str, body: dict) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def whole(url: str, body: dict) -> dict:
    status, text = ask(url, body)
    assert status == 200, text
    answer = json.loads(text)
    return {name: value for name, value in answer.items() if name not in ("id", "created", "timings")}


def streamed(url: str, body: dict) -> list[dict]:
    status, text = ask(url, {**body, "stream": True})
    assert status == 200, text
    *events, done, nothing = text.split("\n\n")
    assert (done, nothing.strip()) == ("data: [DONE]", ""), text
    return [json.loads(event.strip().removeprefix("data: ")) for event in events]


def pieces(events: list[dict]) -> dict[int, list]:
    """Each choice's texts and reasons in their order. How the choices alternate is llama.cpp's mood."""
    told = {}
    for event in events:
        for choice in event["choices"]:
            assert choice["logprobs"] is None
            told.setdefault(choice["index"], []).append((choice["text"], choice["finish_reason"]))
    return told


def test_a_whole_answer_is_that_of_the_server(direct, through, asked):
    answer = whole(through, asked)
    assert answer == whole(direct, asked)
    assert all(choice["text"] and choice["finish_reason"] for choice in answer["choices"])


def test_a_stream_brings_the_servers_pieces(direct, through, asked):
    told = pieces(streamed(through, asked))
    # llama.cpp puts a `null` into a stream of several prompts, which no client can read.
    assert told == pieces([event for event in streamed(direct, asked) if event is not None])
    texts = ["".join(text for text, _ in told[index]) for index in sorted(told)]
    assert texts == [choice["text"] for choice in whole(through, asked)["choices"]]


def test_a_grammar_makes_the_server_write_unicode_and_stop(through):
    [choice] = whole(through, ASKED["a unicode answer"])["choices"]
    assert (choice["text"], choice["finish_reason"]) == (UNICODE, "stop")


def test_max_tokens_is_16_where_the_client_names_none(direct, through):
    unnamed = {name: value for name, value in GREEDY.items() if name != "max_tokens"}
    limited = {**unnamed, "max_tokens": DEFAULT_MAX_TOKENS}
    assert whole(through, unnamed) == whole(direct, limited)
    assert pieces(streamed(through, unnamed)) == pieces(streamed(direct, limited))


def test_a_stream_tells_no_usage_unless_asked(through):
    assert all("usage" not in event for event in streamed(through, GREEDY))


def test_a_stream_that_is_asked_tells_the_servers_usage_once_at_its_end(direct, through):
    *events, last = streamed(through, {**GREEDY, "stream_options": {"include_usage": True}})
    assert all(event.get("usage") is None for event in events)
    assert last["choices"] == []
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    usage = whole(direct, GREEDY)["usage"]
    assert [last["usage"][name] for name in names] == [usage[name] for name in names]


@pytest.mark.parametrize("include", [False, True])
def test_all_events_of_a_stream_have_one_head(through, include):
    events = streamed(through, {**GREEDY, "stream_options": {"include_usage": include}})
    heads = {(event["id"], event["created"], event["model"], event["object"]) for event in events}
    assert len(heads) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": "many"},
        {"temperature": "hot"},
        {"prompt": 5},
        {"prompt": []},
        {"prompt": [10**6]},
        {"n": 0},
        {"n": 100},
        {"grammar": "root ::= ["},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_server_refuses_is_refused_with_its_status(direct, through, wrong, stream):
    body = {**GREEDY, **wrong, "stream": stream}
    status, text = ask(through, body)
    assert status == ask(direct, body)[0] == 400
    assert json.loads(text)["error"]["message"]


def test_a_body_that_is_no_json_is_refused_with_the_servers_status(direct, through):
    for url in (direct, through):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        connection.request("POST", "/v1/completions", "{", {"Content-Type": "application/json"})
        assert connection.getresponse().status == 400
        connection.close()


def seconds_until(direct: str, processing: bool) -> float:
    start = time.monotonic()
    while True:
        connection = http.client.HTTPConnection(urlsplit(direct).netloc, timeout=10)
        connection.request("GET", "/slots")
        slots = json.loads(connection.getresponse().read())
        connection.close()
        passed = time.monotonic() - start
        if any(slot["is_processing"] for slot in slots) == processing:
            return passed
        assert passed < 5
        time.sleep(0.01)


# A whole answer is not tried: llama.cpp writes it to its end even if the client that asked it directly has left.
def test_a_client_that_leaves_a_stream_frees_the_server(direct, through):
    client = openai.OpenAI(base_url=through, api_key="sk-unused", max_retries=0, timeout=10)
    # More than the server writes in a minute: greedy, the model never ends by itself.
    stream = client.completions.create(**{**GREEDY, "max_tokens": 16000}, stream=True)
    assert next(iter(stream)).choices[0].text
    seconds_until(direct, processing=True)
    stream.close()
    assert seconds_until(direct, processing=False) < 0.5
