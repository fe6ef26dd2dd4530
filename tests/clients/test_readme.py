"""README's own examples, run as they stand there but for the demo's address."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import page
import pytest
from processes import APPS, CLIENTS, OFFLINE, ROOT, emulator

ADDRESS = "127.0.0.1:8787"
README = (ROOT / "README.md").read_text()
# Those are `run-heavy`'s.
HEAVY = ("guidellm ", "vllm ")


def snippets(section: str) -> list[tuple[str, str]]:
    text = re.search(rf"^## {section}$(.*?)^## ", README, re.M | re.S)[1]
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)


ASK_IT, CLIENT, BENCH = (snippets(section) for section in ("Ask it", "Clients", "Benchmark any server"))


def run(base: str, snippet: str, command: list, **more) -> str:
    assert ADDRESS in snippet
    script = snippet.replace(ADDRESS, base.removeprefix("http://").removesuffix("/v1"))
    done = subprocess.run(command, **more, input=script, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


def of(language: str, found=ASK_IT) -> list[str]:
    return [snippet for written, snippet in found if written == language]


def test_the_examples_are_one_for_curl_two_for_python_and_one_for_javascript():
    assert [language for language, _ in ASK_IT] == ["sh", "python", "python", "javascript"]


@pytest.mark.parametrize("snippet", of("sh"), ids=["curl"])
def test_the_shell_example_prints_an_answer_of_the_pages_shape(base, snippet):
    page.check_reply(json.loads(run(base, snippet, ["sh", "-e"])), page.MODEL)


@pytest.mark.parametrize("snippet", of("python"), ids=["openai", "portkey"])
def test_the_python_examples_print_a_completion(base, snippet):
    assert run(base, snippet, [sys.executable, "-"]).strip()


@pytest.mark.parametrize("snippet", of("javascript"), ids=["openai"])
def test_the_javascript_example_prints_a_completion(base, snippet):
    # Where Node looks for modules.
    folder = CLIENTS / "node"
    assert run(base, snippet, ["node", "--input-type=module", "-"], cwd=folder).strip()


@pytest.mark.parametrize("snippet", of("python", CLIENT), ids=["langchain", "llama-index", "litellm"])
def test_the_clients_in_python_print_a_completion(base, snippet):
    assert run(base, snippet, [APPS / "python", "-"], env=OFFLINE).strip() == page.TAGLINE.strip()


LIGHT = [snippet for snippet in of("sh", CLIENT) if not snippet.startswith(HEAVY)]


PRINTED = [page.TAGLINE.strip(), "exact_match"]


@pytest.mark.parametrize("snippet, printed", [*zip(LIGHT, PRINTED, strict=True)], ids=["llm", "lm-eval"])
def test_the_clients_commands_print_what_they_should(base, snippet, printed, tmp_path):
    path = f"{APPS}:{os.environ['PATH']}"
    environment = {**OFFLINE, "PATH": path, "LLM_USER_PATH": str(tmp_path)}
    assert printed in run(base, snippet, ["sh", "-e"], cwd=ROOT, env=environment)


@pytest.mark.parametrize("snippet", of("sh", BENCH), ids=["closed", "open", "compare"])
def test_the_benchmarks_run_without_a_failed_request(base, snippet, tmp_path):
    path = f"{Path(os.environ['GATEWAY']).parent}:{os.environ['PATH']}"
    with emulator(tmp_path) as direct:
        snippet = snippet.replace("http://127.0.0.1:8788", direct)
        # It exits with 1 if one fails.
        table = run(base, snippet, ["sh", "-e"], cwd=tmp_path, env={**os.environ, "PATH": path})
    assert "went well" in table
