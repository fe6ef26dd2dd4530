"""What the tests share: the demo's base URL, and a deadline for each of them."""

import signal

import pytest

import processes

TEST_SECONDS = 30


def pytest_configure():
    # A run that is told to end takes its processes with it, as it does on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The demo, in which an emulator answers for every provider."""
    with processes.demo(tmp_path_factory.mktemp("demo")) as url:
        yield url


@pytest.fixture(autouse=True)
def deadline():
    def stop(_signal, _frame):
        raise TimeoutError(f"no end after {TEST_SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(TEST_SECONDS)
    yield
    signal.alarm(0)
