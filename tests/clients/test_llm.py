"""Simon Willison's `llm`: a completion model of `extra-openai-models.yaml`.

https://llm.datasette.io/en/stable/other-models.html#openai-compatible-models
"""

import json

import page
import processes
import pytest

MODEL = """
- model_id: {name}
  model_name: {model}
  api_base: "{base}"
  completion: true
  headers: {headers}
"""
WAYS = {"streamed": [], "whole": ["--no-stream"]}


@pytest.fixture(scope="module")
def told(direct, through, base, chat_only, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llm")
    models = {
        "direct": ("tiny", direct, {}),
        "through": ("tiny", through, {}),
        "text": (page.MODEL, base, {"x-portkey-provider": "openai"}),
        "chat": ("claude-sonnet-4-5", chat_only, {}),
        "chat by header": ("llama-3.3-70b-versatile", base, {"x-portkey-provider": "groq"}),
    }
    yaml = [
        MODEL.format(name=name, model=model, base=base, headers=json.dumps(headers))
        for name, (model, base, headers) in models.items()
    ]
    (folder / "extra-openai-models.yaml").write_text("".join(yaml))

    def ask(model: str, *options: str) -> dict:
        return {"arguments": ["prompt", "-m", model, *options]}

    targets = {}
    for way, option in WAYS.items():
        for model in ("direct", "through"):
            greedy = ["-o", "temperature", "0", "-o", "max_tokens", "24", *option, "The License"]
            targets[f"{model}, {way}"] = ask(model, *greedy)
        for model in ("text", "chat", "chat by header"):
            targets[f"{model}, {way}"] = ask(model, "-o", "max_tokens", "20", *option, page.BASIC["prompt"])
    return processes.app("llm_app.py", targets, LLM_USER_PATH=str(folder))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", ["text", "chat", "chat by header"])
def test_the_emulators_answer_is_printed_and_its_usage_kept(told, model, way):
    usage = {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}
    assert told[f"{model}, {way}"] == {"printed": page.TAGLINE.strip(), "usage": usage}


@pytest.mark.parametrize("way", WAYS)
def test_llama_cpps_answer_is_that_of_the_server(told, way):
    answer = told[f"through, {way}"]
    assert answer["printed"]
    assert answer["printed"] == told[f"direct, {way}"]["printed"]
