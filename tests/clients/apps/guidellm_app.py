"""guidellm's HTTP backend: https://github.com/vllm-project/guidellm

The command itself loads its data by torch; what it sends and how it reads the answer is this.
"""

import asyncio

import driver
from guidellm.backends import OpenAIHTTPBackend
from guidellm.schemas import GenerationRequest, RequestInfo
from guidellm.schemas.backends import OpenAIHTTPBackendArgs


def ask(base: str, headers: dict, prompt: str, tokens: int | None = None, **options) -> dict:
    """`tokens`, if given, are written whether the model wants to end or not."""
    extras = {"headers": headers, **({"body": options.pop("body")} if "body" in options else {})}
    arguments = {"request_format": "/v1/completions", "api_key": "sk-demo", "extras": extras, **options}

    async def answer() -> dict:
        # It asks `/health` first.
        backend = OpenAIHTTPBackend(OpenAIHTTPBackendArgs(target=base.removesuffix("/v1"), **arguments))
        await backend.process_startup()
        await backend.validate()
        request = GenerationRequest(columns={"text_column": [prompt]}, output_metrics={"text_tokens": tokens})
        async for response, info in backend.resolve(request, RequestInfo()):
            told, timings = response, info.timings
        await backend.process_shutdown()
        return {
            "text": told.text,
            "usage": [told.input_metrics.text_tokens, told.output_metrics.text_tokens],
            "events": timings.token_iterations,
            "id": bool(told.response_id),
        }

    return asyncio.run(answer())


driver.run(ask)
