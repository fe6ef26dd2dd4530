"""The processes that the tests talk to: gateways, llama.cpp's server, and clients that need an environment of their own.
Each is the test run's own, on loopback."""

import http.client
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# Where `run` has put what it fetched.
CLIENTS = Path(os.environ["CLIENTS"])
# The programs of the second environment.
APPS = CLIENTS / "apps/bin"
# Those of `run-heavy`.
HEAVY = CLIENTS / "heavy/bin"
# Clients that would look for models, prices or news elsewhere.
OFFLINE = {
    **os.environ,
    "HF_HOME": str(CLIENTS / "apps/huggingface"),
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "TOKENIZERS_PARALLELISM": "false",
    "OPENAI_API_KEY": "sk-demo",
}
START_SECONDS = 20
STOP_SECONDS = 20


@contextmanager
def demo(folder: Path, **default):
    """A gateway on `conf/demo.yaml`, or with another `default` in it: the base URL that clients are given."""
    conf = (ROOT / "conf/demo.yaml").read_text()
    for name, value in default.items():
        conf, found = re.subn(rf"(?<=\n    {name}: ).*", value, conf)
        assert found == 1, conf
    ports = dict(zip(("8787", "8788", "8789"), free_ports(3)))
    conf = re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda port: str(ports[port[0]]), conf)
    with gateway(folder, conf, ports.values()):
        yield f"http://127.0.0.1:{ports['8787']}/v1"


@contextmanager
def emulator(folder: Path):
    """The emulator alone, as vendors' own SDKs meet it: its URL."""
    ports = free_ports(2)
    conf = f"""
gateway:
  listen: 127.0.0.1:{ports[0]}
  admin:
    listen: none
  emulator:
    listen: 127.0.0.1:{ports[1]}
"""
    with gateway(folder, conf, ports):
        yield f"http://127.0.0.1:{ports[1]}"


@contextmanager
def before(server: str, folder: Path, provider: str = "llama-cpp"):
    """A gateway before such a provider's server: the base URL that clients are given."""
    [port] = free_ports(1)
    conf = f"""
gateway:
  listen: 127.0.0.1:{port}
  admin:
    listen: none
  default:
    provider: {provider}
  providers:
    {provider}:
      base_url: {server}
      auth: none
"""
    with gateway(folder, conf, [port]):
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def gateway(folder: Path, conf: str, ports):
    file = folder / "conf.yaml"
    file.write_text(conf)
    with running([os.environ["GATEWAY"], "-c", file], folder / "log", ports):
        yield


@contextmanager
def llama_cpp(folder: Path, model: Path):
    """llama.cpp's server: its base URL."""
    [port] = free_ports(1)
    with running([sys.executable, HERE / "llama_server.py", model, str(port)], folder / "log", [port]):
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def scoring(llama: str, folder: Path):
    """A server that scores prompts by llama.cpp's: its base URL."""
    [port] = free_ports(1)
    with running([sys.executable, HERE / "scoring_server.py", llama, str(port)], folder / "log", [port]):
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def vllm(model: Path, folder: Path):
    """vLLM's server on the processor, of a model that it calls by its folder's name: its base URL."""
    [port] = free_ports(1)
    options = {
        "--served-model-name": model.name,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": "float32",
        "--max-model-len": "1024",
        "--max-num-seqs": "8",
    }
    # A prompt whose start is remembered is scored otherwise in its last digits.
    command = [HEAVY / "vllm", "serve", model, "--enforce-eager", "--no-enable-prefix-caching"]
    command += [word for option in options.items() for word in option]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with running(command, folder / "vllm.log", [port], seconds=240, **environment):
        yield f"http://127.0.0.1:{port}/v1"


def app(program: str, targets: dict, folder: Path = HERE, **environment: str) -> dict:
    """What a program of `apps/` was answered by each of the targets."""
    command = [APPS / "python", HERE / "apps" / program]
    environment = {**OFFLINE, **environment}
    done = subprocess.run(
        command, cwd=folder, env=environment, input=json.dumps(targets), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def running(command: list, log: Path, ports, seconds: float = START_SECONDS, **environment: str):
    """A child process, from when it answers on all its ports until the block ends."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        limit = time.monotonic() + seconds
        for port in ports:
            while not answers(port):
                assert child.poll() is None and time.monotonic() < limit, log.read_text()
                time.sleep(0.02)
        yield
    finally:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health")
        # llama.cpp's server says 503 until its model is loaded.
        return connection.getresponse().status != 503
    except OSError:
        return False
    finally:
        connection.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now; from below the kernel's ephemeral ones, so that no connection is given one by chance."""
    return list(itertools.islice(filter(is_free, CANDIDATES), count))


def is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


CANDIDATES = itertools.count(10_000 + os.getpid() * 37 % 2_000)
