"""A completions server that scores its prompt: `scoring_server.py LLAMA PORT`, where LLAMA is the URL of llama.cpp's.

llama.cpp's own server ignores `echo`, and those that have it (vLLM, llama-cpp-python) take gigabytes or half an hour to
install. So this one asks llama.cpp for the next token's log-probabilities after each prefix, and says them in the form of
OpenAI's completions: `tokens`, `token_logprobs` (null for the first), `top_logprobs`, `text_offset`. It is greedy, answers
whole, and has vLLM's `/tokenizer_info`, `/tokenize` and `/detokenize`, which lm-eval's remote tokenizer asks.
"""

import functools
import json
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import tiny_model

LLAMA = sys.argv[1].removesuffix("/v1")
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def llama(path: str, **body) -> dict:
    request = urllib.request.Request(LLAMA + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def encode(text: str) -> list[int]:
    return llama("/tokenize", content=text, add_special=False, parse_special=True)["tokens"]


def decode(tokens: list[int]) -> str:
    return llama("/detokenize", tokens=tokens)["content"]


@functools.lru_cache(None)
def spelled(token: int) -> str:
    """A byte that is no text of its own is spelled as llama.cpp does, but so that no two are the same."""
    text = decode([token])
    return text if text.isprintable() and "\ufffd" not in text else f"bytes:\\x{token:02x}"


@functools.lru_cache(None)
def following(prefix: tuple[int, ...]) -> list[tuple[int, float]]:
    """Every token with its log-probability after `prefix`, the likeliest first."""
    answer = llama("/completion", prompt=prefix, n_predict=1, n_probs=tiny_model.VOCABULARY, cache_prompt=False)
    return [(seen["id"], seen["logprob"]) for seen in answer["completion_probabilities"][0]["top_logprobs"]]


def complete(body: dict) -> dict:
    prompts = body["prompt"]
    if isinstance(prompts, str) or isinstance(prompts[0], int):
        prompts = [prompts]
    prompts = [encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    answers = [choice(index, prompt, body) for index, prompt in enumerate(prompts)]
    asked, written = sum(map(len, prompts)), sum(count for _, count in answers)
    return {
        "id": "cmpl-scored",
        "object": "text_completion",
        "created": 1700000000,
        "model": body["model"],
        "choices": [one for one, _ in answers],
        "usage": {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written},
    }


def choice(index: int, prompt: list[int], body: dict) -> tuple[dict, int]:
    written, reason = write(prompt, body["max_tokens"], body.get("stop") or [])
    tokens = prompt + written if body.get("echo") else written
    skipped = 0 if body.get("echo") else len(prompt)
    text = decode(tokens)
    for stop in body.get("stop") or []:
        text = text.split(stop)[0]
    scores = None if body.get("logprobs") is None else score(prompt + written, skipped, body["logprobs"])
    return {"index": index, "text": text, "logprobs": scores, "finish_reason": reason}, len(written)


def write(prompt: list[int], limit: int, stops: list[str]) -> tuple[list[int], str]:
    written = []
    while len(written) < limit:
        token = following(tuple(prompt + written))[0][0]
        if token == tiny_model.END:
            return written, "stop"
        written.append(token)
        if any(stop in decode(written) for stop in stops):
            return written, "stop"
    return written, "length"


def score(tokens: list[int], skipped: int, top: int) -> dict:
    scores = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for place in range(skipped, len(tokens)):
        token = tokens[place]
        after = following(tuple(tokens[:place])) if place else []
        likeliest = {spelled(other): logprob for other, logprob in after[:top]}
        scores["tokens"].append(spelled(token))
        scores["token_logprobs"].append(dict(after).get(token))
        scores["top_logprobs"].append({**likeliest, spelled(token): dict(after)[token]} if after else None)
        scores["text_offset"].append(len(decode(tokens[skipped:place])))
    return scores


POSTED = {
    "/v1/completions": complete,
    "/tokenize": lambda body: {"tokens": encode(body["prompt"])},
    "/detokenize": lambda body: {"prompt": decode(body["tokens"])},
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(SPECIAL if self.path == "/tokenizer_info" else {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(POSTED[self.path](body))

    def answer(self, value: dict):
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
