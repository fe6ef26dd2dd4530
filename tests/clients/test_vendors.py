"""The vendors' own SDKs talk to the emulator, so that it is shown to speak their formats before it judges the gateway."""

import json

import anthropic
import boto3
import botocore.exceptions
import cohere
import huggingface_hub
import mistralai.client
import ollama
import openai
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


def test_mistrals_sdk_sends_a_prefix_and_reads_it_again(emulator):
    begun = {"role": "assistant", "content": PROMPT, "prefix": True}
    messages = [{"role": "user", "content": "Continue the text."}, begun]
    asked = dict(model="mistral-small-latest", messages=messages)
    answer = mistral(emulator).chat.complete(**asked)
    text = answer.choices[0].message.content
    assert text.startswith(PROMPT) and len(text) > len(PROMPT)
    events = [event.data for event in mistral(emulator).chat.stream(**asked)]
    assert "".join(event.choices[0].delta.content or "" for event in events if event.choices) == text


def cohere_client(emulator, key="sk-demo"):
    return cohere.ClientV2(api_key=key, base_url=emulator)


def test_coheres_sdk_reads_a_whole_answer(emulator):
    answer = cohere_client(emulator).chat(model="command-a", messages=[{"role": "user", "content": PROMPT}])
    assert [part.text for part in answer.message.content] == [ANSWER]
    assert answer.finish_reason == "COMPLETE"
    assert (answer.usage.tokens.input_tokens, answer.usage.tokens.output_tokens) == COUNTS


def test_coheres_sdk_reads_a_stream(emulator):
    client = cohere_client(emulator)
    events = list(client.chat_stream(model="command-a", messages=[{"role": "user", "content": PROMPT}]))
    texts = [event.delta.message.content.text for event in events if event.type == "content-delta"]
    assert "".join(texts) == ANSWER
    assert events[-1].type == "message-end" and events[-1].delta.finish_reason == "COMPLETE"


def test_ollamas_sdk_reads_both(emulator):
    client = ollama.Client(host=emulator)
    whole = client.generate(model="tiny", prompt=PROMPT, raw=True)
    assert whole.response.strip() == ANSWER and whole.done_reason == "stop"
    assert (whole.prompt_eval_count, whole.eval_count) == COUNTS
    pieces = list(client.generate(model="tiny", prompt=PROMPT, raw=True, stream=True))
    assert "".join(piece.response for piece in pieces).strip() == ANSWER and pieces[-1].done


def bedrock(emulator):
    return boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=emulator,
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="secret",
    )


CLAUDE = "anthropic.claude-3-5-haiku-20241022-v1:0"


def test_boto3_reads_a_conversation_whole_and_streamed(emulator):
    said = [{"role": "user", "content": [{"text": PROMPT}]}]
    whole = bedrock(emulator).converse(modelId=CLAUDE, messages=said)
    assert whole["output"]["message"]["content"] == [{"text": ANSWER}]
    assert whole["stopReason"] == "end_turn"
    assert (whole["usage"]["inputTokens"], whole["usage"]["outputTokens"]) == COUNTS
    events = list(bedrock(emulator).converse_stream(modelId=CLAUDE, messages=said)["stream"])
    texts = [event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event]
    assert "".join(texts) == ANSWER
    assert [event["messageStop"]["stopReason"] for event in events if "messageStop" in event] == ["end_turn"]


def test_boto3_reads_an_invoked_model_streamed(emulator):
    body = json.dumps({"prompt": PROMPT, "max_gen_len": 20})
    answer = bedrock(emulator).invoke_model_with_response_stream(modelId="meta.llama3-70b-instruct-v1:0", body=body)
    pieces = [json.loads(event["chunk"]["bytes"]) for event in answer["body"]]
    assert "".join(piece["generation"] for piece in pieces).strip() == ANSWER
    assert pieces[-1]["stop_reason"] == "stop"


FILTER, REFUSAL, BLOCKED = (f"sk-emulator?fault={fault}" for fault in ("content-filter", "refusal", "blocked"))


def test_the_sdks_know_a_text_that_a_filter_has_ended(emulator):
    assert claude(emulator, FILTER).messages.create(**say()).stop_reason == "refusal"
    google = gemini(emulator, FILTER)
    answer = google.models.generate_content(model="gemini-2.5-flash", contents=PROMPT)
    assert answer.candidates[0].finish_reason == types.FinishReason.SAFETY
    answer = cohere_client(emulator, FILTER).chat(model="command-a", messages=[{"role": "user", "content": PROMPT}])
    assert answer.finish_reason == "ERROR_TOXIC"


def test_googles_sdk_knows_a_blocked_prompt(emulator):
    client = gemini(emulator, BLOCKED)
    [event] = client.models.generate_content_stream(model="gemini-2.5-flash", contents=PROMPT)
    for answer in (event, client.models.generate_content(model="gemini-2.5-flash", contents=PROMPT)):
        assert answer.prompt_feedback.block_reason == types.BlockedReason.PROHIBITED_CONTENT
        assert not answer.candidates and answer.usage_metadata.prompt_token_count == COUNTS[0]


def test_openais_sdk_knows_a_refusal_and_a_blocked_prompt(emulator):
    client = openai.OpenAI(base_url=f"{emulator}/v1", api_key=REFUSAL, max_retries=0)
    [choice] = client.chat.completions.create(**ask()).choices
    assert (choice.message.content, choice.message.refusal, choice.finish_reason) == (None, ANSWER, "stop")
    with client.chat.completions.stream(**ask()) as stream:
        [choice] = stream.get_final_completion().choices
    assert (choice.message.refusal, choice.finish_reason) == (ANSWER, "stop")
    with pytest.raises(openai.BadRequestError) as told:
        openai.OpenAI(base_url=f"{emulator}/v1", api_key=BLOCKED, max_retries=0).chat.completions.create(**ask())
    assert told.value.code == "content_filter" and told.value.body["innererror"]["code"]


def sagemaker(emulator):
    return boto3.client(
        "sagemaker-runtime",
        region_name="us-east-1",
        endpoint_url=emulator,
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="secret",
    )


# What an endpoint's container is asked, and how to find the text in its answer, whole and streamed.
CONTAINERS = {
    "tgi": (
        {"inputs": PROMPT, "parameters": {"max_new_tokens": 20, "return_full_text": False, "details": True}},
        lambda whole: whole[0]["generated_text"],
        lambda event: "" if event["token"]["special"] else event["token"]["text"],
    ),
    "openai": (
        {"model": "m", "prompt": PROMPT, "max_tokens": 20},
        lambda whole: whole["choices"][0]["text"],
        lambda event: event["choices"][0]["text"],
    ),
    "chat": (
        {"model": "m", "messages": [{"role": "user", "content": PROMPT}]},
        lambda whole: whole["choices"][0]["message"]["content"],
        lambda event: event["choices"][0]["delta"].get("content", ""),
    ),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_boto3_reads_an_endpoint_whole_and_streamed(emulator, container):
    body, text, piece = CONTAINERS[container]
    asked = dict(EndpointName="demo", ContentType="application/json")
    whole = sagemaker(emulator).invoke_endpoint(**asked, Body=json.dumps(body))
    assert text(json.load(whole["Body"])).strip() == ANSWER
    stream = sagemaker(emulator).invoke_endpoint_with_response_stream(**asked, Body=json.dumps(body | {"stream": True}))
    parts = [event["PayloadPart"]["Bytes"] for event in stream["Body"]]
    assert not parts[0].endswith(b"\n\n")
    events = [event.removeprefix("data:") for event in b"".join(parts).decode().split("\n\n") if event]
    pieces = [piece(json.loads(event)) for event in events if event.strip() != "[DONE]"]
    assert "".join(pieces).strip() == ANSWER


def test_boto3_knows_an_endpoints_errors(emulator):
    body = json.dumps({"inputs": PROMPT, "parameters": {"top_p": 1}})
    with pytest.raises(botocore.exceptions.ClientError) as told:
        sagemaker(emulator).invoke_endpoint(EndpointName="demo", ContentType="application/json", Body=body)
    assert told.value.response["Error"]["Code"] == "ModelError"
    assert told.value.response["OriginalStatusCode"] == 422
    broken = dict(EndpointName="demo", ContentType="application/json", Body=json.dumps({"prompt": "x", "model": "m", "stream": True}))
    stream = sagemaker(emulator + "/~fault=error-event").invoke_endpoint_with_response_stream(**broken)
    with pytest.raises(botocore.exceptions.EventStreamError, match="ModelStreamError"):
        list(stream["Body"])


def generate(emulator, path="/generate"):
    return huggingface_hub.InferenceClient(model=emulator + path, token="sk-demo")


def test_hugging_faces_client_reads_both(emulator):
    asked = dict(details=True, max_new_tokens=20, stop=["zz"])
    whole = generate(emulator).text_generation(PROMPT, **asked)
    assert whole.generated_text.strip() == ANSWER
    assert (whole.details.finish_reason, whole.details.generated_tokens) == ("eos_token", COUNTS[1])
    # Held: the stream ends with its client.
    client = generate(emulator, "/generate_stream")
    events = list(client.text_generation(PROMPT, stream=True, **asked))
    assert "".join(event.token.text for event in events if not event.token.special).strip() == ANSWER
    assert events[-1].details.generated_tokens == COUNTS[1]
    assert events[-1].generated_text.strip() == ANSWER
    assert all(event.token.logprob <= 0 for event in events)


def test_hugging_faces_client_knows_the_errors(emulator):
    for fault, error in [
        ("status-429", huggingface_hub.errors.OverloadedError),
        ("status-422", huggingface_hub.errors.ValidationError),
    ]:
        with pytest.raises(error):
            generate(emulator, f"/~fault={fault}/generate").text_generation(PROMPT, max_new_tokens=20)
