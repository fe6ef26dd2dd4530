"""curl, as the API page uses it."""

import json
import subprocess

import page
import pytest


def curl(base: str, body: dict, key: str = "sk-demo") -> dict:
    headers = ["Content-Type: application/json", "x-portkey-provider: openai", f"x-portkey-api-key: {key}"]
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "10", f"{base}/completions"]
    for header in headers:
        command += ["--header", header]
    command += ["--data", json.dumps({"model": page.MODEL, **body})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def test_the_basic_example_is_answered_as_on_the_page(base):
    reply = curl(base, page.BASIC)
    page.check_reply(reply, page.MODEL)
    assert reply["choices"][0]["text"] == page.TAGLINE
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_three_completions_come_as_three_choices(base):
    reply = curl(base, page.SEVERAL)
    page.check_reply(reply, page.MODEL, choices=3)
    assert len({choice["text"] for choice in reply["choices"]}) == 3


@pytest.mark.parametrize("stop", [page.STOPPED["stop"], "\n4."])
def test_stop_sequences_are_taken_as_a_list_and_as_a_text(base, stop):
    page.check_reply(curl(base, {**page.STOPPED, "stop": stop}), page.MODEL)


def test_a_stop_sequence_ends_the_text_before_it(base):
    [choice] = curl(base, {**page.BASIC, "stop": [" every"]})["choices"]
    assert (choice["text"], choice["finish_reason"]) == (" Sweet treats for", "stop")


def test_max_tokens_ends_the_text_and_says_so(base):
    [choice] = curl(base, {**page.BASIC, "max_tokens": 2})["choices"]
    assert (choice["text"], choice["finish_reason"]) == (" Sweet treats", "length")


def test_the_key_of_the_pages_header_goes_to_the_provider(base):
    reply = curl(base, {"prompt": "x"}, key="sk-emulator?tokens=3")
    assert reply["usage"]["completion_tokens"] == 3
