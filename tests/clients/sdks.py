"""The Python SDKs behind one face: whole answers, and streams chunk by chunk."""

import asyncio

import openai
import portkey_ai
# Portkey's SDK raises the errors of an OpenAI SDK of its own.
from portkey_ai._vendor import openai as portkey_openai

SECONDS = 10


class Sync:
    def __init__(self, errors, connect):
        self.errors = errors
        self.connect = connect

    def create(self, base: str, key: str = "sk-demo", provider: str = "openai", **parameters):
        return self.connect(base, key, provider).completions.create(timeout=SECONDS, **parameters)

    def stream(self, chunks: list, base: str, key: str = "sk-demo", provider: str = "openai", **parameters):
        """Appends to `chunks`, so that those before an error are seen too."""
        client = self.connect(base, key, provider)
        for chunk in client.completions.create(timeout=SECONDS, stream=True, **parameters):
            chunks.append(chunk)


class Async(Sync):
    def create(self, base: str, key: str = "sk-demo", provider: str = "openai", **parameters):
        async def ask():
            client = self.connect(base, key, provider)
            return await client.completions.create(timeout=SECONDS, **parameters)

        return asyncio.run(ask())

    def stream(self, chunks: list, base: str, key: str = "sk-demo", provider: str = "openai", **parameters):
        async def ask():
            client = self.connect(base, key, provider)
            async for chunk in await client.completions.create(timeout=SECONDS, stream=True, **parameters):
                chunks.append(chunk)

        asyncio.run(ask())


def by_openai(kind):
    def connect(base: str, key: str, provider: str):
        headers = {"x-portkey-provider": provider}
        return kind(base_url=base, api_key=key, default_headers=headers, max_retries=0)

    return connect


def by_portkey(kind):
    def connect(base: str, key: str, provider: str):
        return kind(base_url=base, Authorization=key, provider=provider)

    return connect


SDKS = {
    "openai": Sync(openai, by_openai(openai.OpenAI)),
    "openai async": Async(openai, by_openai(openai.AsyncOpenAI)),
    "portkey": Sync(portkey_openai, by_portkey(portkey_ai.Portkey)),
    "portkey async": Async(portkey_openai, by_portkey(portkey_ai.AsyncPortkey)),
}
