"""LangChain, LlamaIndex and LiteLLM: before llama.cpp as without the gateway; before a chat-only provider as the page says."""

import page
import processes
import pytest

PROMPTS = [page.BASIC["prompt"], "The License"]
# What the emulator answers to the second.
GREEDY = {"temperature": 0, "max_tokens": 24}
ASKED = {"max_tokens": page.BASIC["max_tokens"]}
FRAMEWORKS = ["langchain_app.py", "llama_index_app.py", "litellm_app.py"]
CHAT_ONLY = ["by default", "by header"]


@pytest.fixture(scope="module", params=FRAMEWORKS)
def told(request, direct, through, base, chat_only):
    def target(base: str, model: str, settings: dict, provider: str | None = None) -> dict:
        headers = {"x-portkey-provider": provider} if provider else {}
        return {"base": base, "model": model, "settings": settings, "headers": headers, "prompts": PROMPTS}

    targets = {
        "direct": target(direct, "tiny", GREEDY),
        "through": target(through, "tiny", GREEDY),
        "text": target(base, page.MODEL, ASKED, "openai"),
        "by default": target(chat_only, "claude-sonnet-4-5", ASKED),
        "by header": target(base, "llama-3.3-70b-versatile", ASKED, "groq"),
    }
    return processes.app(request.param, targets)


def test_each_answer_of_llama_cpp_is_that_of_the_server(told):
    for case, answer in told["direct"].items():
        assert "raised" not in answer, case
        assert told["through"][case] == answer, case


def test_a_text_provider_answers_whole_and_streamed(told):
    check_texts(told["text"], page.TAGLINE)


@pytest.mark.parametrize("chosen", CHAT_ONLY)
def test_a_chat_only_provider_answers_whole_and_streamed(told, chosen):
    check_texts(told[chosen], page.TAGLINE.lstrip())


def check_texts(answers: dict, text: str) -> None:
    for case in ("whole", "whole_async"):
        assert answers[case] == text
    for case in ("streamed", "streamed_async"):
        assert "".join(answers[case]) == text
        assert len([piece for piece in answers[case] if piece]) > 1
    assert answers["stopped"] == text[: text.index("e")]


@pytest.mark.parametrize("chosen", ["text", *CHAT_ONLY])
def test_usage_is_told(told, chosen):
    answers = told[chosen]
    seen = [case["usage"] for case in answers.values() if isinstance(case, dict) and "usage" in case]
    if usage := answers.get("usage"):
        seen.append(usage[-1] if isinstance(usage, list) else usage)
    assert seen
    for usage in seen:
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


@pytest.mark.parametrize("chosen", ["text", *CHAT_ONLY])
def test_several_prompts_are_answered_in_their_order(told, chosen):
    if "several" not in told[chosen]:
        pytest.skip("LlamaIndex asks one prompt at a time")
    several, sole = told[chosen]["several"], told[chosen]["generated"]
    assert len(several["texts"]) == len(PROMPTS)
    assert several["texts"][0] == sole["texts"][0] != several["texts"][1]
    assert several["usage"]["completion_tokens"] > sole["usage"]["completion_tokens"]


@pytest.mark.parametrize("chosen", ["text", *CHAT_ONLY])
def test_two_choices_of_each_prompt_stand_side_by_side(told, chosen):
    if "choices" not in told[chosen]:
        pytest.skip("LlamaIndex has no `n`")
    texts = told[chosen]["choices"]["texts"]
    assert len(texts) == 2 * len(PROMPTS) and all(texts)
