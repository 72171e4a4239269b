"""Settings: addresses, key and TLS from arguments, else from the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mdw_client import Client, ConfigurationError, Tls
from mdw_client.settings import address, load
from services.kit.keys import new_secret

if TYPE_CHECKING:
    from pathlib import Path

KEY, OTHER = new_secret(), new_secret()


def test_without_anything_the_services_are_on_this_machine() -> None:
    settings = load(environ={})
    assert settings.targets == {"auth": "127.0.0.1:15051", "symbols": "127.0.0.1:15052", "ingest": "127.0.0.1:15053"}
    assert (settings.key_source(), settings.tls, settings.allow_plaintext) == (None, None, False)


@pytest.mark.parametrize(
    ("target", "symbols"),
    [
        ("warehouse.example.com", "warehouse.example.com:15052"),
        ("warehouse.example.com:443", "warehouse.example.com:443"),
        ("dns:///mdw-{service}.mdw.svc", "dns:///mdw-symbols.mdw.svc:15052"),
        ("dns:///mdw-{service}.mdw.svc:80", "dns:///mdw-symbols.mdw.svc:80"),
        ("[::1]", "[::1]:15052"),
        ("unix:/run/{service}.sock", "unix:/run/symbols.sock"),
        ("ipv4:10.0.0.1:7,10.0.0.2:7", "ipv4:10.0.0.1:7,10.0.0.2:7"),
    ],
)
def test_one_target_names_all_services(target: str, symbols: str) -> None:
    assert address(target, "symbols") == symbols
    assert load(environ={"MDW_TARGET": target}).targets["symbols"] == symbols


def test_a_service_may_have_a_target_of_its_own() -> None:
    environ = {"MDW_TARGET": "a:1", "MDW_AUTH_TARGET": "b:2"}
    assert load(environ=environ).targets == {"auth": "b:2", "symbols": "a:1", "ingest": "a:1"}
    assert load(targets={"ingest": "c"}, environ=environ).targets["ingest"] == "c:15053"


def test_an_argument_wins_over_every_variable() -> None:
    environ = {
        "MDW_TARGET": "a:1",
        "MDW_AUTH_TARGET": "b:2",
        "MDW_KEY": OTHER,
        "MDW_TLS": "1",
        "MDW_ALLOW_PLAINTEXT": "1",
    }
    settings = load("c:3", key=KEY, tls=False, allow_plaintext=False, environ=environ)
    assert set(settings.targets.values()) == {"c:3"}
    assert (settings.key, settings.tls, settings.allow_plaintext) == (KEY, None, False)


def test_a_service_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the services are auth, symbols, ingest"):
        load(targets={"bars": "a:1"}, environ={})


def test_the_key_comes_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    assert load(environ={"MDW_KEY": f" {OTHER}\n", "MDW_KEY_FILE": str(file)}).key_source() == OTHER
    assert load(environ={"MDW_KEY_FILE": str(file)}).key_source() == file
    assert load(key_file=file, environ={"MDW_KEY": OTHER}).key_source() == file


def test_the_key_of_make_run_is_found_on_this_machine_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".mdw").mkdir()
    (tmp_path / ".mdw/admin.key").write_text(KEY)
    monkeypatch.chdir(tmp_path)
    assert load(environ={}).key_file == tmp_path / ".mdw/admin.key"
    monkeypatch.chdir("/")
    assert load(environ={"MDW_STATE": str(tmp_path / ".mdw")}).key_file == tmp_path / ".mdw/admin.key"
    monkeypatch.chdir(tmp_path)
    assert load(environ={"MDW_KEY": OTHER}).key_source() == OTHER
    assert load(environ={"MDW_INGEST_TARGET": "elsewhere:1"}).key_source() is None


@pytest.mark.parametrize(
    "text",
    ["mdw_", KEY[:-1], KEY[:-1] + ("0" if KEY[-1] != "0" else "1"), "Bearer " + KEY],
    ids=["prefix", "cut", "mistyped", "header"],
)
def test_a_key_that_was_cut_or_mistyped_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ConfigurationError, match="MDW_KEY: not a whole key") as raised:
        load(environ={"MDW_KEY": text})
    assert text.removeprefix("Bearer ") not in str(raised.value) or text == "mdw_"


def test_the_key_is_not_shown_by_its_settings() -> None:
    assert KEY[12:] not in repr(load(key=KEY, environ={}))


def test_key_and_key_file_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        Client(key=KEY, key_file=tmp_path)


def test_a_key_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"MDW_KEY_FILE: .*nothing: No such file"):
        load(environ={"MDW_KEY_FILE": str(tmp_path / "nothing")})


def test_tls_comes_from_the_environment(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("")
    environ = {"MDW_TLS_CA_FILE": str(ca), "MDW_TLS_SERVER_NAME": "mdw"}
    assert load(environ=environ).tls == Tls(ca_file=ca, server_name="mdw")
    assert load(environ={"MDW_TLS": "yes"}).tls == Tls()
    assert load(environ={"MDW_TLS": "0"}).tls is None
    assert load(tls=True, environ={}).tls == Tls()
    assert load(tls=Tls(server_name="x"), environ={}).tls == Tls(server_name="x")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"MDW_TLS": "perhaps"}, "MDW_TLS: 'perhaps' is neither 1 nor 0"),
        ({"MDW_TLS_CA_FILE": "/nowhere/ca.pem"}, "MDW_TLS_CA_FILE: /nowhere/ca.pem is not a file"),
        ({"MDW_TLS_CERT_FILE": __file__}, "MDW_TLS_CERT_FILE: needs MDW_TLS_KEY_FILE"),
        ({"MDW_ALLOW_PLAINTEXT": "maybe"}, "MDW_ALLOW_PLAINTEXT: 'maybe' is neither 1 nor 0"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(environ=environ)
