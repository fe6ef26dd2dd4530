"""LangChain's `OpenAI`: https://python.langchain.com/docs/integrations/llms/openai/"""

import asyncio

import driver
from langchain_openai import OpenAI

KEY = "sk-demo"


def ask(base: str, model: str, headers: dict, prompts: list[str], settings: dict) -> dict:
    def llm(**more):
        options = {"default_headers": headers, "max_retries": 0, "timeout": 10, **settings, **more}
        return OpenAI(base_url=base, api_key=KEY, model=model, **options)

    def generated(result) -> dict:
        choices = [choice for choices in result.generations for choice in choices]
        return {
            "texts": [choice.text for choice in choices],
            "reasons": [choice.generation_info["finish_reason"] for choice in choices],
            "usage": result.llm_output["token_usage"],
        }

    async def streamed() -> list[str]:
        return [piece async for piece in llm().astream(prompts[0])]

    return driver.cases(
        whole=lambda: llm().invoke(prompts[0]),
        streamed=lambda: list(llm().stream(prompts[0])),
        whole_async=lambda: asyncio.run(llm().ainvoke(prompts[0])),
        streamed_async=lambda: asyncio.run(streamed()),
        generated=lambda: generated(llm().generate(prompts[:1])),
        several=lambda: generated(llm().generate(prompts)),
        choices=lambda: generated(llm(n=2).generate(prompts)),
        stopped=lambda: llm().invoke(prompts[0], stop=[" every", "e"]),
    )


driver.run(ask)
