"""guidellm: what it measures through the gateway is what the server wrote, event by event."""

import page
import processes
import pytest

# Words of the prompt and the answer: what the emulator counts as tokens.
COUNTS = [8, 5]
GREEDY = {"temperature": 0}
# It always asks for `continuous_usage_stats`, unless told otherwise.
AT_ITS_END = {"stream_options": {"continuous_usage_stats": False}}


@pytest.fixture(scope="module")
def told(direct, through, base, chat_only):
    def target(base: str, stream: bool, model: str, provider: str | None = None, **more) -> dict:
        headers = {"x-portkey-provider": provider} if provider else {}
        asked = {"prompt": page.BASIC["prompt"], "model": model, "stream": stream, "headers": headers}
        return {"base": base, **asked, **more}

    targets = {}
    for stream in (True, False):
        for name, server in (("direct", direct), ("through", through)):
            targets[f"{name} {stream}"] = target(server, stream, "tiny", tokens=24, body=GREEDY)
        targets[f"text {stream}"] = target(base, stream, page.MODEL, "openai")
        targets[f"chat by header {stream}"] = target(base, stream, "llama-3.3-70b-versatile", "groq", body=AT_ITS_END)
        targets[f"chat by default {stream}"] = target(chat_only, stream, "claude-sonnet-4-5", body=AT_ITS_END)
    targets["chat as it is"] = target(chat_only, True, "claude-sonnet-4-5")
    return processes.app("guidellm_app.py", targets)


@pytest.mark.parametrize("stream", [True, False])
def test_llama_cpp_is_measured_as_without_the_gateway(told, stream):
    through = told[f"through {stream}"]
    assert through == told[f"direct {stream}"]
    assert through["usage"][1] == 24 and through["text"]
    # An event for each token.
    assert through["events"] == (24 if stream else 0)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "chosen, text",
    [
        ("text", page.TAGLINE),
        ("chat by header", page.TAGLINE.lstrip()),
        ("chat by default", page.TAGLINE.lstrip()),
    ],
)
def test_the_emulators_answer_is_read(told, chosen, text, stream):
    answer = told[f"{chosen} {stream}"]
    assert (answer["text"], answer["usage"], answer["id"]) == (text, COUNTS, True)
    assert (answer["events"] > 1) == stream


def test_a_chat_only_provider_is_measured_without_another_word(told):
    assert told["chat as it is"] == told["chat by default True"]
