"""The API page: its examples, and the exact shape of its answers."""

import time

BASIC = {"prompt": "Write a tagline for an ice cream shop.", "max_tokens": 20}
SEVERAL = {"prompt": "Complete this sentence: The future of AI is", "max_tokens": 30, "n": 3}
STREAMED = {"prompt": "Write a short poem about coding", "max_tokens": 50}
STOPPED = {"prompt": "List three programming languages:\n1.", "max_tokens": 50, "stop": ["\n4."]}
MODEL = "gpt-3.5-turbo-instruct"

# What the emulator answers to `BASIC`. A chat model's text starts with a word.
TAGLINE = " Sweet treats for every occasion!"

HEAD = {"id", "object", "created", "model", "choices"}
CHOICE = {"text", "index", "logprobs", "finish_reason"}
USAGE = {"prompt_tokens", "completion_tokens", "total_tokens"}


def check_reply(reply: dict, model: str, choices: int = 1) -> None:
    """That a whole answer has the page's fields and no others, each of its type."""
    assert reply.keys() == HEAD | {"usage"}
    check_head(reply, model)
    assert [choice["index"] for choice in reply["choices"]] == list(range(choices))
    for choice in reply["choices"]:
        check_choice(choice)
        assert choice["text"]
        assert choice["finish_reason"] in ("stop", "length", "content_filter")
    check_usage(reply["usage"])


def check_events(events: list[dict], model: str) -> None:
    """The same of a stream of one choice that was asked for its usage."""
    *pieces, finish, counted = events
    for event in pieces + [finish]:
        assert event.keys() == HEAD
        check_head(event, model)
        [choice] = event["choices"]
        check_choice(choice)
        assert choice["index"] == 0
    assert all(piece["choices"][0]["finish_reason"] is None for piece in pieces)
    assert finish["choices"][0]["finish_reason"] in ("stop", "length", "content_filter")
    assert counted.keys() == HEAD | {"usage"}
    check_head(counted, model)
    assert counted["choices"] == []
    check_usage(counted["usage"])
    assert len({event["id"] for event in events}) == 1


def check_head(answer: dict, model: str) -> None:
    assert answer["object"] == "text_completion"
    assert answer["id"] and isinstance(answer["id"], str)
    assert type(answer["created"]) is int and abs(answer["created"] - time.time()) < 60
    assert answer["model"] == model


def check_choice(choice: dict) -> None:
    assert choice.keys() == CHOICE
    assert isinstance(choice["text"], str)
    assert choice["logprobs"] is None


def check_usage(usage: dict) -> None:
    assert usage.keys() == USAGE
    assert all(type(count) is int and count > 0 for count in usage.values())
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
