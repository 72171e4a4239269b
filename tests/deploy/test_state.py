"""The folder of make run: closed to others, used by one run at a time, and removed only if it is one."""

from __future__ import annotations

import os

import pytest

from deploy.local import state as program
from deploy.local.bring_up import read_key
from deploy.local.stack import StackError
from deploy.local.state import State, StateError
from services.kit.keys import new_secret


@pytest.fixture
def state(tmp_path):
    found = State.from_environment({"MDW_STATE": str(tmp_path / "state")})
    found.prepare()
    return found


def test_the_folder_lies_in_the_working_folder_unless_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert State.from_environment({}).folder == tmp_path / ".mdw"


def test_others_cannot_look_into_it(state):
    state.passwords(("one",))
    assert state.folder.stat().st_mode & 0o077 == 0
    assert (state.folder / "passwords.json").stat().st_mode & 0o077 == 0


def test_a_folder_that_holds_other_things_is_not_taken(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StateError, match="holds other things"):
        State(tmp_path).prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_that_holds_no_key_is_said_with_the_way_out(state):
    state.admin_key.write_text("mdw_beginning")
    with pytest.raises(StackError, match=r"admin\.key holds no key: remove it"):
        read_key(state.admin_key)
    state.admin_key.write_bytes(b"\xff")
    with pytest.raises(StackError, match=r"admin\.key holds no key: remove it"):
        read_key(state.admin_key)
    secret = new_secret()
    state.admin_key.write_text(secret + "\n")
    assert read_key(state.admin_key) == secret


def test_passwords_are_made_once(state):
    first = state.passwords(("one", "two"))
    assert len(set(first.values())) == 2
    assert state.passwords(("two", "three"))["two"] == first["two"]
    assert state.passwords(("one",)) == {"one": first["one"]}


def test_a_second_run_is_refused_and_told_of_the_first(state):
    assert not state.in_use
    with state.locked():
        state.note_running({"pid": 4711})
        assert state.in_use
        with pytest.raises(StateError, match="running already, as process 4711"), state.locked():
            pass
        with pytest.raises(StateError, match="stop it first"):
            state.remove()
    state.note_running(None)
    assert state.running() == {}


def test_a_file_in_its_place_is_said_in_one_line(tmp_path):
    (tmp_path / "state").write_text("")
    with pytest.raises(StateError, match="remove it, or name another folder with MDW_STATE"):
        State(tmp_path / "state").prepare()


def test_a_broken_file_in_it_is_said_in_one_line(state):
    (state.folder / "passwords.json").write_text("{")
    with pytest.raises(StateError, match="make clean-run removes the folder"):
        state.passwords(("one",))


def test_it_is_removed_with_all_that_is_in_it(state, monkeypatch, capsys):
    (state.folder / "postgres").mkdir()
    monkeypatch.setenv("MDW_STATE", str(state.folder))
    assert program.main() == 0
    assert not state.folder.exists()
    assert capsys.readouterr().out == f"removed {state.folder}\n"


def test_a_folder_that_is_no_state_stays(tmp_path, monkeypatch, capsys):
    (tmp_path / "precious").mkdir()
    monkeypatch.setenv("MDW_STATE", str(tmp_path / "precious"))
    assert program.main() == 1
    assert (tmp_path / "precious").exists()
    assert "was not made by make run" in capsys.readouterr().err
    assert not State(tmp_path / "precious").in_use


def test_what_cannot_be_removed_is_named(state, monkeypatch):
    def refuse(path: object) -> None:
        raise PermissionError(13, os.strerror(13), str(path))

    monkeypatch.setattr(program.shutil, "rmtree", refuse)
    with pytest.raises(StateError, match=r"cannot be removed \(Permission denied\)"):
        state.remove()
