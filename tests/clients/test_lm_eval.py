"""lm-evaluation-harness: what it computes through the gateway is what it computes without it, to the last digit.

A prompt's log-probabilities come from `scoring_server.py`; llama.cpp's own server has none, but writes as well.
"""

import http.client
import json
from urllib.parse import urlsplit

import processes
import pytest
import tiny_hf

FOLDER = processes.HERE / "lm_eval"
SCORED = ["choice", "rolling", "writing"]
HEADERS = {"Authorization": "Bearer sk-demo"}


@pytest.fixture(scope="module")
def told(direct, through, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scoring")
    tiny_hf.write_tokenizer(folder / "tokenizer")
    local = {"tokenizer_backend": "huggingface", "tokenizer": str(folder / "tokenizer")}
    texts = {**local, "tokenized_requests": False}

    def ask(base: str, tasks: list[str], batch_size: int, **more) -> dict:
        return {"base_url": f"{base}/completions", "model": "tiny", "tasks": tasks, "batch_size": batch_size, **more}

    def header(provider: str, model: str) -> dict:
        # The harness sends no `Authorization` of its own beside these.
        return {"header": {**HEADERS, "x-portkey-provider": provider}, "model": model, "eos_string": "</s>"}

    ways = {
        "token ids": (1, local),
        "token ids, 4 at once": (4, local),
        "texts": (1, texts),
        "texts, 4 at once": (4, texts),
        "token ids, 3 requests side by side": (2, {**local, "num_concurrent": 3}),
        "the server's tokenizer": (1, {"tokenizer_backend": "remote"}),
    }
    targets = {}
    with (
        processes.scoring(direct, folder) as scoring,
        processes.before(scoring, folder, provider="vllm") as scored,
    ):
        for way, (batch_size, options) in ways.items():
            targets[f"direct: {way}"] = ask(scoring, SCORED, batch_size, **options)
            targets[f"through: {way}"] = ask(scored, SCORED, batch_size, **options)
        for name, server in (("direct", direct), ("through", through)):
            targets[f"{name}: llama.cpp"] = ask(server, ["writing"], 4, **local)
        for size in (1, 4):
            chat = header("groq", "llama-3.3-70b-versatile")
            targets[f"chat, {size}"] = ask(base, ["writing"], size, **{"tokenizer_backend": None, **chat})
        return processes.app("lm_eval_app.py", targets, FOLDER)


WAYS = [
    "token ids",
    "token ids, 4 at once",
    "texts",
    "texts, 4 at once",
    "token ids, 3 requests side by side",
    "the server's tokenizer",
]


@pytest.mark.parametrize("way", [*WAYS, "llama.cpp"])
def test_every_figure_through_the_gateway_is_that_without_it(told, way):
    assert told[f"through: {way}"] == told[f"direct: {way}"]
    assert "results" in told[f"direct: {way}"], told[f"direct: {way}"]


@pytest.mark.parametrize("way", WAYS)
def test_the_figures_are_a_models(told, way):
    figures = told[f"through: {way}"]
    assert figures["results"]["choice"]["acc,none"] == 1
    assert 1 < figures["results"]["rolling"]["bits_per_byte,none"] < 10
    assert figures == told["direct: token ids"]
    scores = [score for choices in figures["samples"]["choice"] for [[score, _]] in choices]
    assert len(scores) == len(set(scores)) == 8 and max(scores) < 0
    assert all(text for [[text]] in figures["samples"]["writing"])


def test_a_chat_only_provider_writes_by_one_and_by_four(told):
    one, four = told["chat, 1"], told["chat, 4"]
    assert one == four
    assert all(text for [[text]] in one["samples"]["writing"])


@pytest.mark.parametrize("provider", ["groq", "anthropic", "llama-cpp"])
def test_scores_of_a_provider_that_has_none_are_refused_by_name(base, provider):
    """What the harness sends to score; a provider that ignored `echo` would be scored at chance."""
    asked = {"model": "m", "prompt": "a b", "temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": True}
    headers = {**HEADERS, "Content-Type": "application/json", "x-portkey-provider": provider}
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=10)
    connection.request("POST", "/v1/completions", json.dumps(asked), headers)
    response = connection.getresponse()
    error = json.loads(response.read())["error"]
    connection.close()
    assert response.status == 400
    assert error["param"] in ("echo", "logprobs") and error["code"] == "unsupported_parameter"
