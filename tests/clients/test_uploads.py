"""A body that is refused before it was read, and clients that send all of it before they look: they are told why."""

import subprocess

import httpx
import processes
import pytest

BODY = b'{"model": "m", "prompt": "' + b"x" * 8_000_000 + b'"}'
FETCH = """
const body = require('fs').readFileSync(0);
const headers = { 'content-type': 'application/json' };
(async () => {
  let told;
  // Whether a reset or the answer is seen first is a matter of chance.
  for (let turn = 0; turn < 8; turn++) {
    const answer = await fetch(process.argv[1], { method: 'POST', body, headers });
    told = `${answer.status} ${(await answer.json()).error.type}`;
  }
  console.log(told);
})();
"""


def by_httpx(url):
    answer = httpx.post(url, content=BODY, headers={"content-type": "application/json"})
    return f"{answer.status_code} {answer.json()['error']['type']}"


def by_node(url):
    done = subprocess.run(["node", "-e", FETCH, url], input=BODY, capture_output=True, timeout=20)
    return done.stdout.decode().strip() or done.stderr.decode()


def by_curl(url):
    # Without a question whether it may.
    headers = ["-H", "content-type: application/json", "-H", "expect:"]
    done = subprocess.run(["curl", "-s", *headers, "--data-binary", "@-", "-w", " %{http_code}", url],
                          input=BODY, capture_output=True, timeout=20)
    body, status = done.stdout.decode().rsplit(" ", 1)
    return f"{status} invalid_request_error" if '"invalid_request_error"' in body else body


@pytest.mark.parametrize("upload", [by_httpx, by_node, by_curl])
def test_whoever_uploads_too_much_is_told(upload, tmp_path):
    [port] = processes.free_ports(1)
    conf = f"gateway:\n  listen: 127.0.0.1:{port}\n  admin: {{ listen: none }}\n  limits: {{ body_bytes: 100000 }}\n"
    with processes.gateway(tmp_path, conf, [port]):
        assert upload(f"http://127.0.0.1:{port}/v1/completions") == "413 invalid_request_error"
