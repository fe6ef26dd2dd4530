"""Simon Willison's `llm`, its commands one after the other in one process: https://llm.datasette.io"""

import json

import driver
from click.testing import CliRunner
from llm.cli import cli


def ask(arguments: list[str]) -> dict:
    def run(*words: str) -> str:
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
        return done.stdout

    printed = run(*arguments)
    [logged] = json.loads(run("logs", "-n", "1", "--json"))
    return {"printed": printed.strip(), "usage": logged["response_json"]["usage"]}


driver.run(ask)
