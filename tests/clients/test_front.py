"""Transparent mode: an app with OpenAI's SDK, a websocket and file uploads runs unchanged behind the gateway, over HTTP and
over HTTPS. Only completions are the gateway's."""

import hashlib
import ssl
import sys

import front_app
import httpx
import openai
import page
import processes
import pytest
import websockets
from websockets.sync.client import connect

TLS = processes.ROOT / "tests/fixtures/tls"
AUTHORITY = ssl.create_default_context(cafile=str(TLS / "ca.pem"))
WAYS = ["alone", "http", "https"]


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    """The app's address, and those of a gateway before it."""
    folder = tmp_path_factory.mktemp("front")
    app, plain, secure, emulator = processes.free_ports(4)
    conf = f"""
gateway:
  listen:
    - 127.0.0.1:{plain}
    - {{ address: "127.0.0.1:{secure}", tls: {{ cert: {TLS / "one.pem"}, key: {TLS / "one.key"} }} }}
  admin: {{ listen: none }}
  upstreams:
    app: {{ url: "http://127.0.0.1:{app}" }}
  emulator: {{ listen: "127.0.0.1:{emulator}", all: true }}
"""
    command = [sys.executable, processes.HERE / "front_app.py", str(app)]
    with processes.running(command, folder / "app.log", [app]), processes.gateway(folder, conf, [plain]):
        yield {"alone": f"http://127.0.0.1:{app}", "http": f"http://127.0.0.1:{plain}", "https": f"https://127.0.0.1:{secure}"}


@pytest.fixture(params=WAYS)
def url(urls, request):
    return urls[request.param]


@pytest.fixture
def web(url):
    with httpx.Client(base_url=url, verify=AUTHORITY, timeout=20) as client:
        yield client


@pytest.fixture
def app(url, web):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="sk-app", max_retries=0, http_client=web)


@pytest.mark.parametrize("url", ["http", "https"], indirect=True)
def test_completions_alone_are_the_gateways(app):
    raw = app.completions.with_raw_response.create(model=page.MODEL, **page.BASIC)
    assert raw.parse().choices[0].text == page.TAGLINE
    assert raw.headers["x-portkey-provider"] == "openai"
    streamed = app.completions.create(model=page.MODEL, **page.BASIC, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == page.TAGLINE


def test_the_sdk_meets_the_app(app):
    assert [model.id for model in app.models.list()] == ["own-1"]
    messages = [{"role": "user", "content": "hi"}]
    raw = app.chat.completions.with_raw_response.create(model="own-1", messages=messages)
    assert raw.parse().choices[0].message.content == "own Bearer sk-app"
    assert "x-portkey-provider" not in raw.headers
    streamed = app.chat.completions.create(model="own-1", messages=messages, stream=True)
    assert [chunk.choices[0].delta.content for chunk in streamed] == ["own", "Bearer", "sk-app"]


def test_files_arrive_whole(app, web):
    content = bytes(range(256)) * 40_000
    digest = hashlib.sha256(content).hexdigest()
    file = app.files.create(file=("lines.jsonl", content), purpose="batch")
    assert (file.id, file.bytes, file.filename) == (digest, len(content), "lines.jsonl")
    # Without a length, in chunks.
    pieces = (content[at : at + 100_000] for at in range(0, len(content), 100_000))
    answer = web.put("/raw", content=pieces)
    assert (answer.status_code, answer.text) == (201, digest)


def test_a_websocket_is_the_apps(url):
    context = {"ssl": AUTHORITY} if url.startswith("https") else {}
    where = url.replace("http", "ws", 1) + "/socket?room=1"
    with connect(where, subprotocols=["chat"], additional_headers={"cookie": "session=s-1"}, max_size=None, **context) as socket:
        assert socket.subprotocol == "chat"
        socket.send("hello")
        assert socket.recv() == "s-1 hello"
        large = bytes(range(256)) * 8_000
        socket.send(large)
        assert socket.recv() == large
        socket.send(["in ", "parts"])
        assert socket.recv() == "s-1 in parts"
        assert socket.ping().wait(5)
        socket.send("leave")
        with pytest.raises(websockets.ConnectionClosed) as closed:
            socket.recv()
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as asked")
    with connect(where, **context) as socket:
        socket.close(1000)
        assert socket.close_code == 1000


def test_sessions_ranges_and_events_are_the_apps(url, web):
    web.follow_redirects = True
    answer = web.get("/login")
    assert answer.json()["session"] == "s-1" and len(web.cookies) == 2
    assert answer.json()["url"] == f"{url}/me"
    assert web.get("/file").content == front_app.FILE
    part = web.get("/file", headers={"range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, front_app.FILE[100:200])
    assert web.get("/file", headers={"if-none-match": '"v1"'}).status_code == 304
    assert web.head("/file").headers["content-length"] == str(len(front_app.FILE))
    with web.stream("GET", "/events") as events:
        assert "".join(events.iter_text()).count("data: tick\n\n") == 3
    assert web.get("/health").text == "the app's own"
    assert web.get("/nowhere").status_code == 404


def test_http2_over_tls_carries_both(urls):
    with httpx.Client(base_url=urls["https"], verify=AUTHORITY, http1=False, http2=True) as client:
        sdk = openai.OpenAI(base_url=f"{urls['https']}/v1", api_key="sk-app", max_retries=0, http_client=client)
        raw = sdk.completions.with_raw_response.create(model=page.MODEL, **page.BASIC)
        assert raw.http_response.http_version == "HTTP/2" and raw.parse().choices[0].text == page.TAGLINE
        streamed = sdk.completions.create(model=page.MODEL, **page.BASIC, stream=True)
        assert "".join(chunk.choices[0].text for chunk in streamed) == page.TAGLINE
        content = b"z" * 3_000_000
        assert sdk.files.create(file=("a", content), purpose="batch").bytes == len(content)
        assert client.get("/file").content == front_app.FILE


def test_a_certificate_of_another_authority_is_not_trusted(urls):
    with pytest.raises(httpx.ConnectError):
        httpx.get(urls["https"] + "/health")
