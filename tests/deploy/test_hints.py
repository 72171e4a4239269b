"""The command lines that make run prints use what is there."""

from __future__ import annotations

from pathlib import Path

from deploy.local import hints

ADDRESSES = {"auth": "127.0.0.1:1", "symbols": "127.0.0.1:2", "ingest": "127.0.0.1:3"}


def test_grpcurl_is_used_if_it_is_on_the_path(monkeypatch):
    monkeypatch.setattr(hints.shutil, "which", lambda _: "/usr/bin/grpcurl")
    first, *_ = hints.command_lines(ADDRESSES, Path.cwd() / ".mdw/admin.key")
    assert first == (
        'grpcurl -plaintext -emit-defaults -H "x-api-key: $(cat .mdw/admin.key)" '
        '-d \'{"asset_class": "ASSET_CLASS_STOCK", "page_size": 3}\' '
        "127.0.0.1:2 mdw.symbols.v1.SymbolService/ListSymbols"
    )


def test_else_buf_curl_of_the_virtual_environment(monkeypatch):
    monkeypatch.setattr(hints.shutil, "which", lambda _: None)
    lines = hints.command_lines(ADDRESSES, Path("/elsewhere/admin.key"))[:4]
    assert all("buf curl --protocol grpc --http2-prior-knowledge --emit-defaults" in line for line in lines)
    assert all("$(cat /elsewhere/admin.key)" in line for line in lines)
    assert lines[-1].endswith("http://127.0.0.1:1/mdw.auth.v1.KeyService/CreateKey")


def test_the_command_mdw_is_shown_where_it_is_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(hints.sys, "executable", str(tmp_path / "python"))
    usual = dict(zip(ADDRESSES, hints.USUAL, strict=True))
    key_file = Path.cwd() / ".mdw/admin.key"
    assert len(hints.command_lines(usual, key_file)) == 4
    (tmp_path / "mdw").touch()
    assert hints.command_lines(usual, key_file)[4] == f"{tmp_path}/mdw status"
    assert hints.command_lines(ADDRESSES, tmp_path / "key")[5] == (
        "MDW_AUTH_TARGET=127.0.0.1:1 MDW_SYMBOLS_TARGET=127.0.0.1:2 MDW_INGEST_TARGET=127.0.0.1:3 "
        f"MDW_KEY_FILE={tmp_path}/key {tmp_path}/mdw bars AAPL 1d --out aapl.csv"
    )
