"""The vendors' own SDKs talk to the emulator, so that it is shown to speak their formats before it judges the gateway."""

import anthropic
import mistralai.client
import pytest
from google import genai
from google.genai import errors as google_errors
from google.genai import types

import processes

PROMPT = "Write a tagline for an ice cream shop."
ANSWER = "Sweet treats for every occasion!"
# Words of the prompt and the answer: what the emulator counts as tokens.
COUNTS = (8, 5)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    with processes.emulator(tmp_path_factory.mktemp("emulator")) as url:
        yield url


def claude(emulator, key="sk-demo"):
    return anthropic.Anthropic(base_url=emulator, api_key=key, max_retries=0)


def say(**more):
    return dict(model="claude", max_tokens=20, messages=[{"role": "user", "content": PROMPT}], **more)


def test_anthropics_sdk_reads_a_whole_message(emulator):
    message = claude(emulator).messages.create(**say())
    assert [block.text for block in message.content] == [ANSWER]
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == COUNTS


def test_anthropics_sdk_reads_a_stream_to_its_end(emulator):
    with claude(emulator).messages.stream(**say()) as stream:
        assert "".join(stream.text_stream) == ANSWER
        message = stream.get_final_message()
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == COUNTS


@pytest.mark.parametrize(
    "status, error",
    [(401, anthropic.AuthenticationError), (429, anthropic.RateLimitError), (529, anthropic.InternalServerError)],
)
def test_anthropics_sdk_knows_the_errors(emulator, status, error):
    with pytest.raises(error) as told:
        claude(emulator, f"sk-emulator?fault=status-{status}").messages.create(**say())
    assert told.value.body["error"]["message"]


def test_anthropics_sdk_knows_an_error_inside_a_stream(emulator):
    with pytest.raises(anthropic.APIStatusError):
        with claude(emulator, "sk-emulator?fault=error-event").messages.stream(**say()) as stream:
            list(stream.text_stream)


def gemini(emulator, key="sk-demo"):
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=emulator))


def test_googles_sdk_reads_a_whole_answer(emulator):
    client = gemini(emulator)
    answer = client.models.generate_content(model="gemini-2.5-flash", contents=PROMPT)
    assert answer.text == ANSWER
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP
    counts = answer.usage_metadata
    assert (counts.prompt_token_count, counts.candidates_token_count) == COUNTS


def test_googles_sdk_reads_a_stream(emulator):
    client = gemini(emulator)
    pieces = list(client.models.generate_content_stream(model="gemini-2.5-flash", contents=PROMPT))
    assert "".join(piece.text or "" for piece in pieces) == ANSWER
    assert pieces[-1].candidates[0].finish_reason == types.FinishReason.STOP
    assert pieces[-1].usage_metadata.candidates_token_count == COUNTS[1]


def test_googles_sdk_knows_the_errors(emulator):
    client = gemini(emulator, "sk-emulator?fault=status-429")
    with pytest.raises(google_errors.ClientError) as told:
        client.models.generate_content(model="gemini-2.5-flash", contents=PROMPT)
    assert told.value.code == 429 and told.value.message


def mistral(emulator, key="sk-demo"):
    return mistralai.client.Mistral(api_key=key, server_url=emulator)


def ask(**more):
    return dict(model="mistral-small-latest", messages=[{"role": "user", "content": PROMPT}], **more)


def test_mistrals_sdk_reads_a_whole_answer(emulator):
    answer = mistral(emulator).chat.complete(**ask())
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == COUNTS


def test_mistrals_sdk_reads_a_stream(emulator):
    events = [event.data for event in mistral(emulator).chat.stream(**ask())]
    texts = [event.choices[0].delta.content for event in events if event.choices]
    assert "".join(text or "" for text in texts) == ANSWER
    assert [event.usage.completion_tokens for event in events if event.usage] == [COUNTS[1]]
