"""A folder is read whole, and refused whole, before any connection is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from migrator import files
from migrator.errors import BadFiles
from tests.migrator.support import where

if TYPE_CHECKING:
    from tests.migrator.conftest import Folder


def refused(folder: Folder) -> BadFiles:
    with pytest.raises(BadFiles) as caught:
        files.load(folder.path)
    return caught.value


def test_files_come_in_the_order_of_their_numbers(folder: Folder) -> None:
    for number in range(10, 0, -1):
        folder.add(f"{number}_x.sql", f"SELECT {number}")
    assert [migration.version for migration in files.load(folder.path)] == list(range(1, 11))


def test_two_files_of_one_version_are_refused(folder: Folder) -> None:
    folder.add("0001_a.sql", "SELECT 1").add("0001_b.sql", "SELECT 1")
    assert "same version as 0001_a.sql" in str(refused(folder))


def test_leading_zeros_make_no_other_version(folder: Folder) -> None:
    folder.add("0001_a.sql", "SELECT 1").add("1_b.sql", "SELECT 1")
    assert "same version" in str(refused(folder))


def test_a_gap_is_refused(folder: Folder) -> None:
    folder.add("0001_a.sql", "SELECT 1").add("0002_b.sql", "SELECT 1").add("0004_d.sql", "SELECT 1")
    error = refused(folder)
    assert where(error) == ["0004_d.sql"]
    assert "version 3 is missing" in str(error)


@pytest.mark.parametrize("name", ["0000_x.sql", "99999999999_x.sql"])
def test_a_version_out_of_range_is_refused(folder: Folder, name: str) -> None:
    folder.add(name, "SELECT 1")
    assert "is not between 1 and" in str(refused(folder))


@pytest.mark.parametrize(
    "name", ["-1_x.sql", "x.sql", "0001-x.sql", "0001_x.SQL", "0001_X.sql", "0001_.sql", "0001.sql"]
)
def test_a_misspelt_name_is_refused_and_not_skipped(folder: Folder, name: str) -> None:
    folder.add(name, "SELECT 1")
    assert where(refused(folder)) == [name]


@pytest.mark.parametrize("name", [".0001_x.sql.swp", "README.md", "0001_x.sql~", "notes.txt"])
def test_what_is_no_sql_file_is_left_alone(folder: Folder, name: str) -> None:
    folder.add("0001_a.sql", "SELECT 1").add(name, "\xff")
    (folder.path / "..data").mkdir()
    assert len(files.load(folder.path)) == 1


def test_a_folder_named_like_a_file_is_refused(folder: Folder) -> None:
    (folder.path / "0001_a.sql").mkdir()
    assert "not a file" in str(refused(folder))


def test_a_link_out_of_the_folder_is_refused(folder: Folder) -> None:
    (folder.path.parent / "elsewhere").write_text("SELECT 1")
    (folder.path / "0001_a.sql").symlink_to(folder.path.parent / "elsewhere")
    assert "leads out of the folder" in str(refused(folder))


def test_a_link_within_the_folder_is_followed_as_mounted_config_maps_need(folder: Folder) -> None:
    (folder.path / "..2026").mkdir()
    (folder.path / "..2026" / "0001_a.sql").write_text("SELECT 1")
    (folder.path / "0001_a.sql").symlink_to(folder.path / "..2026" / "0001_a.sql")
    assert files.load(folder.path)[0].sql == "SELECT 1"


@pytest.mark.parametrize("content", ["", "  \n\t\r\n"])
def test_an_empty_file_is_refused(folder: Folder, content: str) -> None:
    assert "is empty" in str(refused(folder.add("0001_a.sql", content)))


def test_bytes_that_are_not_utf_8_are_named_with_their_place(folder: Folder) -> None:
    error = refused(folder.add("0001_a.sql", b"SELECT 1;\nSELECT 'caf\xe9'"))
    assert where(error) == ["0001_a.sql:2"]
    assert "not UTF-8 at byte 21" in str(error)


def test_a_nul_byte_is_refused_with_its_place(folder: Folder) -> None:
    error = refused(folder.add("0001_a.sql", "SELECT 1".encode("utf-16-le")))
    assert "a NUL byte at byte 1" in str(error)


def test_a_file_above_16_mb_is_refused(folder: Folder) -> None:
    folder.add("0001_a.sql", b"-" * (16 * 1024 * 1024 + 1))
    assert "16 MB" in str(refused(folder))


def test_line_ends_and_a_byte_order_mark_make_no_other_checksum(folder: Folder) -> None:
    variants = [b"SELECT 1;\nSELECT 2;\n", b"\xef\xbb\xbfSELECT 1;\nSELECT 2;\n", b"SELECT 1;\r\nSELECT 2;\r\n"]
    sums = [files.load(folder.add("0001_a.sql", variant).path)[0].checksum for variant in variants]
    assert len(set(sums)) == 1


def test_an_unknown_directive_is_refused_and_the_known_one_taken(folder: Folder) -> None:
    folder.add("0001_a.sql", "-- migrator: no-transaction\nVACUUM")
    assert files.load(folder.path)[0].no_transaction
    error = refused(folder.add("0001_a.sql", "SELECT 1;\n-- migrator: no-transactions\n"))
    assert where(error) == ["0001_a.sql:2"]


def test_no_files_and_no_folder_are_errors(folder: Folder) -> None:
    assert "no migration files" in str(refused(folder))
    folder.path.rmdir()
    assert "no such folder" in str(refused(folder))


def test_everything_wrong_is_said_at_once(folder: Folder) -> None:
    folder.add("0001_a.sql", "").add("0002_b.sql", b"\xff").add("0005_c.sql", "SELECT 1").add("d.sql", "SELECT 1")
    assert {"d.sql", "0001_a.sql:1", "0002_b.sql:1", "0005_c.sql"} == set(where(refused(folder)))
