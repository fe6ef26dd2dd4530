"""LiteLLM's `text_completion`: https://docs.litellm.ai/docs/text_completion"""

import asyncio

import driver
import litellm

litellm.suppress_debug_info = True


def ask(base: str, model: str, headers: dict, prompts: list[str], settings: dict) -> dict:
    options = {"api_base": base, "api_key": "sk-demo", "extra_headers": headers, "max_retries": 0, "timeout": 10}
    options = {"model": f"text-completion-openai/{model}", **options, **settings}

    def complete(prompt=prompts[0], **more):
        return litellm.text_completion(prompt=prompt, **options, **more)

    def told(answer) -> dict:
        return {
            "texts": [choice["text"] for choice in answer.choices],
            "reasons": [choice["finish_reason"] for choice in answer.choices],
            "usage": counts(answer.usage),
        }

    def counts(usage) -> dict:
        return {name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}

    async def complete_async():
        return await litellm.atext_completion(prompt=prompts[0], **options)

    async def stream_async() -> list[str]:
        stream = await litellm.atext_completion(prompt=prompts[0], stream=True, **options)
        return [chunk.choices[0]["text"] or "" async for chunk in stream]

    def used() -> list:
        stream = complete(stream=True, stream_options={"include_usage": True})
        return [counts(chunk.usage) for chunk in stream if getattr(chunk, "usage", None)]

    return driver.cases(
        whole=lambda: complete().choices[0].text,
        streamed=lambda: [chunk.choices[0]["text"] or "" for chunk in complete(stream=True)],
        whole_async=lambda: asyncio.run(complete_async()).choices[0].text,
        streamed_async=lambda: asyncio.run(stream_async()),
        usage=used,
        generated=lambda: told(complete()),
        several=lambda: told(complete(prompts)),
        choices=lambda: told(complete(prompts, n=2)),
        stopped=lambda: complete(stop=[" every", "e"]).choices[0].text,
    )


driver.run(ask)
