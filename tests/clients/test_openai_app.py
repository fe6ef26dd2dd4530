"""An app that knows OpenAI alone, with no header of Portkey's: its base URL is all that changes."""

import openai
import page
import pytest

BASIC = {"model": page.MODEL, **page.BASIC}


@pytest.fixture
def app(base):
    return openai.OpenAI(base_url=base, api_key="sk-app", max_retries=0, timeout=10)


def test_completions_come_from_the_confs_provider(app):
    raw = app.completions.with_raw_response.create(**BASIC)
    assert raw.parse().choices[0].text == page.TAGLINE
    assert raw.headers["x-portkey-provider"] == "openai"
    assert raw.parse()._request_id == raw.headers["x-request-id"]


def test_models_chat_and_embeddings_pass_through(app):
    assert [model.id for model in app.models.list()] == ["emulated-1"]
    messages = [{"role": "user", "content": page.BASIC["prompt"]}]
    chat = app.chat.completions.create(model="gpt-4.1", messages=messages)
    assert chat.choices[0].message.content == page.TAGLINE.lstrip()
    streamed = app.chat.completions.create(model="gpt-4.1", messages=messages, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == page.TAGLINE.lstrip()
    vector = app.embeddings.create(model="text-embedding-3-small", input="x", encoding_format="float")
    assert vector.data[0].embedding == [0.5, -0.5, 0.25]


def test_the_apps_key_goes_to_the_provider(app):
    seen = app.post("/echo", body={"a": 1}, cast_to=object)
    assert seen["headers"]["authorization"] == "Bearer sk-app"
    assert seen["body"] == '{"a":1}'


def test_every_answer_has_a_trace_and_keeps_the_clients_own(app):
    def trace(**headers):
        raw = app.completions.with_raw_response.create(**BASIC, extra_headers=headers)
        return raw.headers["x-portkey-trace-id"]

    assert trace() and trace() != trace()
    assert trace(**{"x-portkey-trace-id": "trace-1"}) == "trace-1"


def test_an_error_keeps_what_the_sdk_reads_from_it(app):
    with pytest.raises(openai.BadRequestError) as raised:
        app.completions.create(**BASIC, n=0)
    error = raised.value
    assert (error.status_code, error.type, error.param, error.code) == (400, "invalid_request_error", "n", None)
    assert error.request_id
