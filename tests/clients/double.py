"""A local server in a vendor's place: it keeps what it is asked, to the byte, and answers as the test says."""

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Asked:
    method: str
    # As it stood on the wire, with its query.
    path: str
    # By lower-case names.
    headers: dict
    body: bytes


class Double:
    def __init__(self, url: str):
        self.url = url
        self.asked = []

    def last(self) -> Asked:
        return self.asked[-1]


@contextmanager
def answering(answer):
    """`answer` makes status and JSON text of what was asked."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self):
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            asked = Asked(self.command, self.path, headers, body)
            double.asked.append(asked)
            status, text = answer(asked)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PUT = do_DELETE = serve

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    double = Double(f"http://127.0.0.1:{server.server_port}")
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    serving.start()
    try:
        yield double
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
