"""What only Portkey's SDK sends and reads."""

import page
import portkey_ai
import pytest

CLAUDE = {"model": "claude-sonnet-4-5", **page.BASIC, "timeout": 10}


@pytest.fixture
def connect(base):
    def portkey(**options):
        return portkey_ai.Portkey(**{"base_url": base, "Authorization": "sk-demo", "provider": "anthropic", **options})

    return portkey


def test_a_model_that_is_not_named_is_the_confs(connect):
    assert connect(provider="openai").completions.create(**page.BASIC).model == page.MODEL


def test_a_model_that_nobody_names_is_refused(connect):
    with pytest.raises(portkey_ai._vendor.openai.BadRequestError) as raised:
        connect().completions.create(**page.BASIC)
    assert raised.value.param == "model"


def test_an_empty_key_of_portkeys_is_none(connect):
    client = connect()
    assert client.allHeaders["x-portkey-api-key"] == ""
    assert client.completions.create(**CLAUDE).choices[0].text


def test_a_config_names_provider_and_key(connect):
    config = {"provider": "google", "api_key": "sk-emulator?tokens=3"}
    client = connect(provider=None, Authorization=None, config=config)
    completion = client.completions.create(model="gemini-2.5-flash", prompt="x")
    assert completion.get_headers()["provider"] == "google"
    assert completion.usage.completion_tokens == 3


def test_trace_and_metadata_are_taken(connect):
    client = connect(trace_id="trace-1", metadata={"_user": "someone"})
    assert client.completions.create(**CLAUDE).get_headers()["trace-id"] == "trace-1"
    assert client.with_options(trace_id="trace-2").completions.create(**CLAUDE).get_headers()["trace-id"] == "trace-2"


def test_headers_say_what_happened(connect):
    headers = connect().completions.create(**CLAUDE).get_headers()
    assert headers.pop("trace-id")
    assert headers == {"provider": "anthropic", "retry-attempt-count": "0", "last-used-option-index": "config"}


def test_the_providers_own_reason_is_shown_unless_compliance_is_strict(connect):
    def reasons(client):
        whole = client.completions.create(**CLAUDE).choices[0]
        last = list(client.completions.create(**CLAUDE, stream=True))[-1].choices[0]
        return [(choice.finish_reason, getattr(choice, "native_finish_reason", None)) for choice in (whole, last)]

    assert reasons(connect()) == [("stop", "end_turn")] * 2
    assert reasons(connect(strict_open_ai_compliance=True)) == [("stop", None)] * 2


def test_a_deadline_is_kept(connect):
    client = connect(Authorization="sk-emulator?latency_ms=5000", request_timeout=200)
    with pytest.raises(portkey_ai._vendor.openai.APIStatusError) as raised:
        client.completions.create(**CLAUDE)
    assert raised.value.status_code == 504
