"""openai-python's own tests of `completions`, as its source distribution has them: 40, with strict validation and without,
sync and async, by httpx and by aiohttp.

https://github.com/openai/openai-python/blob/main/tests/api_resources/test_completions.py
"""

import os
import re
import subprocess
import sys

import openai
import processes
import pytest

FOLDER = processes.CLIENTS / f"suite/openai=={openai.__version__}"


def run(base: str, *arguments: str, provider: str | None = None) -> dict[str, int]:
    """How many passed, failed, ..."""
    headers = {"OPENAI_CUSTOM_HEADERS": f"x-portkey-provider: {provider}"} if provider else {}
    done = subprocess.run(
        # Without its own options, which want a plugin more.
        [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-q", "--tb=line", *arguments]
        + ["tests/api_resources/test_completions.py"],
        cwd=FOLDER,
        env={**os.environ, "TEST_API_BASE_URL": base, **headers},
        capture_output=True,
        text=True,
        timeout=50,
    )
    told = done.stdout.strip().splitlines()[-1]
    counts = {outcome: int(count) for count, outcome in re.findall(r"(\d+) (\w+)", told.split(" in ")[0])}
    assert (done.returncode == 0) == (counts.keys() <= {"passed", "deselected"}), done.stdout
    return counts


def test_all_pass(base):
    assert run(base) == {"passed": 40}


def test_all_pass_by_header(chat_only):
    assert run(chat_only, provider="openai") == {"passed": 40}


# Those with every parameter name `echo`, `logprobs` and `suffix`, which neither llama.cpp nor a chat-only provider has.
def test_those_of_what_llama_cpp_has_pass(through):
    assert run(through, "-k", "not all_params") == {"passed": 30, "deselected": 10}


@pytest.mark.parametrize("provider", [None, "groq", "google"])
def test_those_of_what_a_chat_only_provider_has_pass(chat_only, provider):
    assert run(chat_only, "-k", "not all_params", provider=provider) == {"passed": 30, "deselected": 10}


def test_those_of_what_a_chat_only_provider_has_not_fail(chat_only):
    assert run(chat_only, "-k", "all_params") == {"failed": 10, "deselected": 30}
