"""LlamaIndex's `OpenAILike`: https://docs.llamaindex.ai/en/stable/api_reference/llms/openai_like/"""

import asyncio

import driver
from llama_index.llms.openai_like import OpenAILike


def ask(base: str, model: str, headers: dict, prompts: list[str], settings: dict) -> dict:
    options = {"default_headers": headers, "max_retries": 0, "timeout": 10, "is_chat_model": False, **settings}

    def llm():
        # A client is its event loop's.
        return OpenAILike(api_base=base, api_key="sk-demo", model=model, **options)

    async def streamed() -> list[str]:
        return [piece.delta async for piece in await llm().astream_complete(prompts[0])]

    return driver.cases(
        whole=lambda: llm().complete(prompts[0]).text,
        streamed=lambda: [piece.delta for piece in llm().stream_complete(prompts[0])],
        whole_async=lambda: asyncio.run(llm().acomplete(prompts[0])).text,
        streamed_async=lambda: asyncio.run(streamed()),
        usage=lambda: llm().complete(prompts[0]).raw.usage.model_dump(exclude_none=True),
        stopped=lambda: llm().complete(prompts[0], stop=[" every", "e"]).text,
    )


driver.run(ask)
