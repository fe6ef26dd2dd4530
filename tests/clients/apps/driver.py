"""What the programs of this folder share: each asks several gateways and servers by one client, in a process of its own.

Targets come as JSON on stdin, `{name: parameters of ask}`; what each was answered goes to stdout, `{name: answer}`. A case
that raises is told as `{"raised": type, "message": text}`, so that the others are seen.
"""

import json
import sys


def run(ask) -> None:
    targets = json.load(sys.stdin)
    # Some libraries print.
    stdout, sys.stdout = sys.stdout, sys.stderr
    told = {name: attempt(lambda target=target: ask(**target)) for name, target in targets.items()}
    json.dump(told, stdout, ensure_ascii=False)


def cases(**asked) -> dict:
    return {name: attempt(case) for name, case in asked.items()}


def attempt(case):
    try:
        return case()
    except Exception as error:
        return {"raised": type(error).__name__, "message": str(error)}
