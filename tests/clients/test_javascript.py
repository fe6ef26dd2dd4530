"""Runs each case of `javascript.mjs` in a Node of its own."""

import shutil
import subprocess

import processes
import pytest

# Node looks for modules beside the script.
SCRIPT = shutil.copy(processes.HERE / "javascript.mjs", processes.CLIENTS / "node")


def node(*arguments: str) -> str:
    done = subprocess.run(["node", SCRIPT, *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("case", node().splitlines())
def test_javascript(base, case):
    node(case, base)
