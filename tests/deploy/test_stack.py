"""What make run says when something does not start or does not stay."""

from __future__ import annotations

import signal
import socket
import sys

import pytest

from deploy.local import stack as module
from deploy.local.stack import Stack, StackError, check_ports, serving
from deploy.local.state import State
from tests.deploy.test_children import until


@pytest.fixture
def stack(tmp_path):
    state = State(tmp_path / "state")
    state.prepare()
    found = Stack(state)
    yield found
    found.stop()


def module_that(tmp_path, code: str) -> str:
    (tmp_path / "made_up.py").write_text(code)
    return "made_up"


@pytest.fixture
def environ(tmp_path):
    return {"PYTHONPATH": str(tmp_path)}


def until_ended(stack: Stack) -> None:
    assert stack.children[-1].wait(10) is not None


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("import sys; print('database away'); sys.exit(3)", "exit code 3"),
        ("import os; print('database away', flush=True); os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    ],
)
def test_a_process_that_ends_is_named_with_its_last_lines(stack, tmp_path, environ, code, ending):
    stack.start("ingest", [module_that(tmp_path, code)], environ)
    until_ended(stack)
    with pytest.raises(StackError, match=rf"(?s)ingest has ended \({ending}\).*ingest\.log:\n  database away"):
        stack.check()


async def test_a_service_that_does_not_get_ready_is_named(stack, tmp_path, environ, monkeypatch):
    monkeypatch.setattr(module, "READY_SECONDS", 0.0)
    stack.start("auth", [module_that(tmp_path, "import time; time.sleep(60)")], environ)
    with pytest.raises(StackError, match=r"auth do not get ready within 0 s: see .*auth\.log"):
        await stack.ready({"auth": f"127.0.0.1:{module.free_port()}"})


def test_what_does_not_end_when_asked_is_killed(stack, tmp_path, environ, monkeypatch):
    monkeypatch.setattr(module, "STOP_SECONDS", 0.2)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    stack.start("auth", [module_that(tmp_path, code)], environ)
    child = stack.children[0]
    assert until(lambda: child.last_lines() == ["up"])
    stack.stop()
    assert child.process.returncode == -signal.SIGKILL


def test_a_setting_of_the_shell_does_not_leak_into_a_service(stack, tmp_path, environ, monkeypatch):
    monkeypatch.setenv("SERVICE_KEY", "someone else's")
    code = "import os; print(os.environ.get('SERVICE_KEY'), os.environ['LISTEN_ADDRESS'])"
    stack.start("auth", [module_that(tmp_path, code)], environ | {"LISTEN_ADDRESS": "here"})
    until_ended(stack)
    assert stack.children[0].last_lines() == ["None here"]


def test_a_port_in_use_is_named_with_what_to_do():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"port {port}, for the symbols service, is in use: stop what listens"):
            check_ports({"symbols": port}, seconds=0.0)
    check_ports({"symbols": port})


async def test_nobody_serves_at_a_free_port():
    assert not await serving(f"127.0.0.1:{module.free_port()}")


def test_children_run_the_same_python(stack, tmp_path, environ):
    stack.start("auth", [module_that(tmp_path, "import sys; print(sys.executable)")], environ)
    stack.children[0].wait(10)
    assert stack.children[0].last_lines() == [sys.executable]
