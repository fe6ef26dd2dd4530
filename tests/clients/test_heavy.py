"""vLLM behind the gateway, scored by lm-evaluation-harness and measured by README's two load generators. By `run-heavy`."""

import json
import os
import re
import subprocess

import processes
import pytest
import tiny_hf
from test_lm_eval import FOLDER, SCORED
from test_readme import ADDRESS, CLIENT, HEAVY, of

REQUESTS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("heavy")


@pytest.fixture(scope="module")
def direct(folder):
    tiny_hf.write(b" ".join((processes.ROOT / "LICENSE").read_bytes().split()), folder / "tiny")
    with processes.vllm(folder / "tiny", folder) as url:
        yield url


@pytest.fixture(scope="module")
def through(direct, folder):
    with processes.before(direct, folder, provider="vllm") as url:
        yield url


@pytest.fixture(scope="module")
def told(direct, through, folder):
    local = {"tokenizer_backend": "huggingface", "tokenizer": str(folder / "tiny"), "max_length": 1024}
    ways = {
        "token ids": (1, {}),
        "token ids, 4 at once": (4, {}),
        "texts, 4 at once": (4, {"tokenized_requests": False}),
    }
    targets = {
        f"{name}: {way}": {
            "base_url": f"{base}/completions",
            "model": "tiny",
            "tasks": SCORED,
            "batch_size": size,
            **local,
            **more,
        }
        # The first time, vLLM's last digits are its own.
        for name, base in (("first", direct), ("direct", direct), ("through", through))
        for way, (size, more) in ways.items()
    }
    return processes.app("lm_eval_app.py", targets, FOLDER)


@pytest.mark.parametrize("way", ["token ids", "token ids, 4 at once", "texts, 4 at once"])
def test_every_figure_through_the_gateway_is_that_without_it(told, way):
    through = told[f"through: {way}"]
    assert through == told[f"direct: {way}"]
    assert through["results"]["choice"]["acc,none"] == 1
    assert 1 < through["results"]["rolling"]["bits_per_byte,none"] < 10


def run(command: str, base: str, folder) -> str:
    [snippet] = [snippet for snippet in of("sh", CLIENT) if snippet.startswith(command)]
    assert snippet.startswith(HEAVY)
    script = snippet.replace(ADDRESS, base.removeprefix("http://").removesuffix("/v1"))
    environment = {**processes.OFFLINE, "PATH": f"{processes.HEAVY}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-e"], cwd=folder, env=environment, input=script, capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_guidellm_completes_every_request(through, folder):
    run("guidellm", through, folder)
    [benchmark] = json.loads((folder / "benchmarks.json").read_text())["benchmarks"]
    requests = benchmark["requests"]
    assert (requests["incomplete"], requests["errored"], len(requests["successful"])) == ([], [], REQUESTS)
    for request in requests["successful"]:
        assert (request["prompt_tokens"], request["output_tokens"]) == (32, 16)


def test_vllm_bench_completes_every_request(through, folder):
    printed = run("vllm", through, folder)
    counts = dict(re.findall(r"^([\w ]+?)(?: \(.*\))?: +([\d.]+)", printed, re.M))
    assert (counts["Successful requests"], counts["Failed requests"]) == (str(REQUESTS), "0")
    assert counts["Total generated tokens"] == str(16 * REQUESTS)
