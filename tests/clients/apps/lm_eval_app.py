"""EleutherAI's lm-evaluation-harness, `local-completions`: every number it computes, with the answers it rests on."""

import driver
import lm_eval
from lm_eval.tasks import TaskManager

# Tasks of this folder alone: nothing is fetched.
MANAGER = TaskManager(include_path=".", include_defaults=False)


def ask(tasks: list[str], batch_size: int, **model_args) -> dict:
    done = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={"max_retries": 1, "timeout": 10, **model_args},
        tasks=tasks,
        batch_size=batch_size,
        task_manager=MANAGER,
        bootstrap_iters=0,
    )
    samples = {task: [sample["resps"] for sample in seen] for task, seen in done["samples"].items()}
    return {"results": done["results"], "samples": samples}


driver.run(ask)
