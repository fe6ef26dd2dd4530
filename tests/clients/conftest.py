"""What the tests share: servers, gateways before them, and a deadline for each test.

`TINY_MODEL` in the environment names another model than that of `tiny_model.py`.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import processes

TEST_SECONDS = 60
CLAUDE = "claude-sonnet-4-5"
# `run-heavy` installs what these need.
collect_ignore = [] if "HEAVY" in os.environ else ["test_heavy.py"]


def pytest_configure():
    # A run that is told to end takes its processes with it, as it does on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The demo, in which an emulator answers for every provider."""
    with processes.demo(tmp_path_factory.mktemp("demo")) as url:
        yield url


@pytest.fixture(scope="session")
def chat_only(tmp_path_factory):
    """The same with a chat-only provider as the conf's default: for clients that send no header."""
    with processes.demo(tmp_path_factory.mktemp("chat"), provider="anthropic", model=CLAUDE) as url:
        yield url


@pytest.fixture(scope="session")
def direct(tmp_path_factory):
    """llama.cpp's server."""
    folder = tmp_path_factory.mktemp("llama")
    model = os.environ.get("TINY_MODEL") or folder / "tiny.gguf"
    if "TINY_MODEL" not in os.environ:
        maker = [sys.executable, processes.HERE / "tiny_model.py", processes.ROOT / "LICENSE", model]
        subprocess.run(maker, check=True, timeout=20)
    with processes.llama_cpp(folder, Path(model)) as url:
        yield url


@pytest.fixture(scope="session")
def through(direct, tmp_path_factory):
    """A gateway before it."""
    with processes.before(direct, tmp_path_factory.mktemp("gateway")) as url:
        yield url


@pytest.fixture(autouse=True)
def deadline():
    def stop(_signal, _frame):
        raise TimeoutError(f"no end after {TEST_SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(TEST_SECONDS)
    yield
    signal.alarm(0)
