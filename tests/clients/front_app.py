"""An app of its own, such as stands behind the gateway: OpenAI's routes, files, a websocket, a session, events.

Its `POST /v1/completions` says that it is the app's: through the gateway nobody meets it.
"""

import asyncio
import hashlib
import sys

from aiohttp import WSMsgType, web

FILE = bytes(range(256)) * 400


async def models(_request):
    return web.json_response({"object": "list", "data": [{"id": "own-1", "object": "model", "created": 1, "owned_by": "app"}]})


async def chat(request):
    asked = await request.json()
    message = {"role": "assistant", "content": f"own {request.headers['authorization']}"}
    head = {"id": "chatcmpl-1", "created": 1, "model": asked["model"]}
    if not asked.get("stream"):
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({**head, "object": "chat.completion", "choices": [choice]})
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    for word in message["content"].split(" "):
        chunk = web.json_response({**head, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": word}}]})
        await answer.write(b"data: " + chunk.body + b"\n\n")
    await answer.write(b"data: [DONE]\n\n")
    return answer


async def completions(_request):
    return web.json_response({"id": "app", "object": "text_completion", "created": 1, "model": "m", "choices": []})


async def files(request):
    """A form with a file in it, read as it comes."""
    digest, length = hashlib.sha256(), 0
    async for part in await request.multipart():
        if part.name != "file":
            continue
        name = part.filename
        while piece := await part.read_chunk():
            digest.update(piece)
            length += len(piece)
    told = {"id": digest.hexdigest(), "bytes": length, "filename": name, "created_at": 1}
    return web.json_response({**told, "object": "file", "purpose": "batch", "status": "processed"})


async def raw(request):
    digest = hashlib.sha256()
    async for piece in request.content.iter_chunked(1 << 16):
        digest.update(piece)
    return web.Response(text=digest.hexdigest(), status=201)


async def socket(request):
    answer = web.WebSocketResponse(protocols=["chat"])
    await answer.prepare(request)
    async for message in answer:
        if message.type == WSMsgType.TEXT and message.data == "leave":
            await answer.close(code=4001, message=b"as asked")
        elif message.type == WSMsgType.TEXT:
            await answer.send_str(f"{request.cookies.get('session')} {message.data}")
        elif message.type == WSMsgType.BINARY:
            await answer.send_bytes(message.data)
    return answer


async def login(_request):
    answer = web.HTTPFound("/me")
    answer.set_cookie("session", "s-1", httponly=True)
    answer.set_cookie("theme", "dark")
    return answer


async def me(request):
    """Links of an app: the host is the client's, the scheme as the proxy before it says."""
    request = request.clone(scheme=request.headers.get("x-forwarded-proto", request.scheme))
    return web.json_response({"session": request.cookies.get("session"), "url": str(request.url)})


async def download(request):
    if request.headers.get("if-none-match") == '"v1"':
        return web.Response(status=304, headers={"etag": '"v1"'})
    part = request.http_range
    return web.Response(body=FILE[part], status=200 if part == slice(None, None, 1) else 206, headers={"etag": '"v1"'})


async def events(request):
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    for number in range(3):
        await answer.write(f"id: {number}\ndata: tick\n\n".encode())
        await asyncio.sleep(0.02)
    return answer


async def health(_request):
    return web.Response(text="the app's own")


def app():
    app = web.Application(client_max_size=1 << 30)
    app.add_routes(
        [
            web.get("/v1/models", models),
            web.post("/v1/chat/completions", chat),
            web.post("/v1/completions", completions),
            web.post("/v1/files", files),
            web.put("/raw", raw),
            web.get("/socket", socket),
            web.get("/login", login),
            web.get("/me", me),
            web.get("/file", download),
            web.get("/events", events),
            web.get("/health", health),
        ]
    )
    return app


if __name__ == "__main__":
    web.run_app(app(), host="127.0.0.1", port=int(sys.argv[1]), print=None)
