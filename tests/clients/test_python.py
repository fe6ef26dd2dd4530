"""The page's examples, and what goes wrong, by each Python SDK."""

import page
import pytest
from sdks import SDKS

BASIC = {"model": page.MODEL, **page.BASIC}
STREAMED = {"model": page.MODEL, **page.STREAMED}


@pytest.fixture(params=SDKS)
def sdk(request):
    return SDKS[request.param]


def usage(answer) -> dict | None:
    """Token counts; Portkey's SDK leaves a chunk's as they came."""
    counts = getattr(answer, "usage", None)
    return counts.model_dump(exclude_none=True) if hasattr(counts, "model_dump") else counts


def test_the_basic_example_gives_a_text(sdk, base):
    completion = sdk.create(base, **BASIC)
    assert completion.object == "text_completion"
    assert completion.choices[0].text == page.TAGLINE
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


def test_three_completions_come_as_three_choices(sdk, base):
    choices = sdk.create(base, model=page.MODEL, **page.SEVERAL).choices
    assert [choice.index for choice in choices] == [0, 1, 2]
    assert len({choice.text for choice in choices}) == 3


def test_a_stop_sequence_ends_the_text_before_it(sdk, base):
    assert sdk.create(base, model=page.MODEL, **page.STOPPED).choices[0].text
    choice = sdk.create(base, **BASIC, stop=[" every"]).choices[0]
    assert (choice.text, choice.finish_reason) == (" Sweet treats for", "stop")


def test_a_stream_brings_the_text_of_the_whole_and_one_finish_reason(sdk, base):
    chunks = []
    sdk.stream(chunks, base, **STREAMED)
    whole = sdk.create(base, **STREAMED)
    assert len(chunks) > 2
    # As the page prints it: no chunk is without a choice.
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + [whole.choices[0].finish_reason]


def test_a_stream_tells_its_usage_only_if_asked(sdk, base):
    unasked, asked = [], []
    sdk.stream(unasked, base, **STREAMED)
    assert all(usage(chunk) is None for chunk in unasked)
    sdk.stream(asked, base, **STREAMED, stream_options={"include_usage": True})
    assert all(usage(chunk) is None for chunk in asked[:-1])
    assert asked[-1].choices == []
    assert usage(asked[-1]) == usage(sdk.create(base, **STREAMED))


def test_a_wrong_parameter_is_a_bad_request_that_names_it(sdk, base):
    with pytest.raises(sdk.errors.BadRequestError) as raised:
        sdk.create(base, **BASIC, temperature=9)
    assert raised.value.param == "temperature"
    with pytest.raises(sdk.errors.BadRequestError) as raised:
        sdk.stream([], base, **BASIC, temperature=9)
    assert raised.value.param == "temperature"


def test_a_provider_that_is_too_busy_is_a_rate_limit_error(sdk, base):
    with pytest.raises(sdk.errors.RateLimitError) as raised:
        sdk.create(base, key="sk-emulator?fault=status-429", **BASIC)
    assert raised.value.response.headers["retry-after"] == "1"


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("fault", ["cut", "error-event"])
def test_a_stream_that_breaks_raises_after_what_came_before(sdk, base, fault, provider):
    chunks = []
    # At a pace, so that the text is there before the fault is.
    key = f"sk-emulator?fault={fault}&rate=200"
    with pytest.raises(sdk.errors.APIError):
        sdk.stream(chunks, base, key=key, provider=provider, **STREAMED)
    text = "".join(chunk.choices[0].text for chunk in chunks)
    assert text and sdk.create(base, provider=provider, **STREAMED).choices[0].text.startswith(text)
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_whole_answer_that_breaks_raises(sdk, base, provider):
    with pytest.raises(sdk.errors.APIError):
        sdk.create(base, key="sk-emulator?fault=cut", provider=provider, **BASIC)
