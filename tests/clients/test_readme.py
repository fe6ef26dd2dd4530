"""README's own examples, run as they stand there but for the demo's address."""

import json
import re
import subprocess
import sys

import page
import pytest
from processes import CLIENTS, ROOT

ADDRESS = "127.0.0.1:8787"
SECTION = re.search(r"^## Ask it$(.*?)^## ", (ROOT / "README.md").read_text(), re.M | re.S)[1]
SNIPPETS = re.findall(r"^```(\w+)\n(.*?)^```$", SECTION, re.M | re.S)


def run(base: str, snippet: str, command: list) -> str:
    assert ADDRESS in snippet
    script = snippet.replace(ADDRESS, base.removeprefix("http://").removesuffix("/v1"))
    # Where Node looks for modules.
    folder = CLIENTS / "node"
    done = subprocess.run(command, cwd=folder, input=script, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout


def of(language: str) -> list[str]:
    return [snippet for found, snippet in SNIPPETS if found == language]


def test_the_examples_are_one_for_curl_two_for_python_and_one_for_javascript():
    assert [language for language, _ in SNIPPETS] == ["sh", "python", "python", "javascript"]


@pytest.mark.parametrize("snippet", of("sh"), ids=["curl"])
def test_the_shell_example_prints_an_answer_of_the_pages_shape(base, snippet):
    page.check_reply(json.loads(run(base, snippet, ["sh", "-e"])), page.MODEL)


@pytest.mark.parametrize("snippet", of("python"), ids=["openai", "portkey"])
def test_the_python_examples_print_a_completion(base, snippet):
    assert run(base, snippet, [sys.executable, "-"]).strip()


@pytest.mark.parametrize("snippet", of("javascript"), ids=["openai"])
def test_the_javascript_example_prints_a_completion(base, snippet):
    assert run(base, snippet, ["node", "--input-type=module", "-"]).strip()
