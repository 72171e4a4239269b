"""Compose on a cluster: what it changes fits what it is laid over, and its nodes find each other."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from typing import TYPE_CHECKING, Any

import yaml

from deploy import manifests

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = manifests.ROOT / "deploy"
PLAIN = yaml.safe_load((FOLDER / "compose.yaml").read_text())
CLUSTER = yaml.safe_load((FOLDER / "compose.citus.yaml").read_text())
NODES = ("postgres", "citus-1", "citus-2")


def both(name: str) -> dict[str, Any]:
    """Returns a service as both files together say: maps are joined, lists of volumes are added."""
    plain, cluster = PLAIN["services"].get(name, {}), CLUSTER["services"].get(name, {})
    joined = {**plain, **cluster}
    for key in ("environment", "depends_on"):
        joined[key] = {**plain.get(key, {}), **cluster.get(key, {})}
    joined["volumes"] = [*plain.get("volumes", ()), *cluster.get("volumes", ())]
    return joined


def test_every_node_runs_the_same_pinned_image_with_the_same_logins() -> None:
    nodes = [both(name) for name in NODES]
    (image,) = {node["image"] for node in nodes} | {both("join")["image"]}
    assert re.fullmatch(r"docker\.io/citusdata/citus:\d+\.\d+\.\d+", image)
    first, *others = nodes
    for node in nodes:
        assert node["environment"] == {**first["environment"]}
        assert any(volume.endswith(":/var/lib/postgresql/data") for volume in node["volumes"])
        for script in ("roles.sh", "node.sh"):
            (volume,) = [volume for volume in node["volumes"] if f"/{script}:" in volume]
            assert (FOLDER / volume.partition(":")[0]).is_file()
        assert "wal_level=logical" in node["command"]
        assert node["healthcheck"] == first["healthcheck"]
    assert len({node["volumes"][0] for node in nodes}) == len(nodes)
    assert set(CLUSTER["volumes"]) == {"citus-1", "citus-2"}
    assert len(others) == 2


def test_the_nodes_join_and_the_bars_move_before_anything_works_on_them() -> None:
    join = both("join")
    assert set(join["depends_on"]) == set(NODES)
    assert {found for word in join["command"] for found in re.findall(r"add_node\('([\w-]+)', 5432\)", word)} == {
        "citus-1",
        "citus-2",
    }
    moved = both("distribute")
    assert moved["command"][1:] == ["-m", "migrator", "distribute"]
    done = {"condition": "service_completed_successfully"}
    assert moved["depends_on"] == {"bootstrap": done, "join": done}
    for name in ("ingest", "worker"):
        assert both(name)["depends_on"]["distribute"] == done


def test_bars_are_read_from_each_worker_in_turn() -> None:
    urls = both("ingest")["environment"]["READ_DATABASE_URLS"].split(",")
    assert [url.rpartition("@")[2] for url in urls] == ["citus-1/mdw", "citus-2/mdw"]
    assert {url.rpartition("@")[0] for url in urls} == {"postgresql://mdw_ingest_login:${INGEST_PASSWORD}"}


def test_the_script_of_a_node_writes_passwords_that_only_postgres_reads(tmp_path: Path) -> None:
    into = tmp_path / "nodes.pgpass"
    names = ("POSTGRES", "AUTH", "SYMBOLS", "INGEST")
    environ = {f"{name}_{what}": f"{name.lower()}-{what.lower()}" for name in names for what in ("USER", "PASSWORD")}
    subprocess.run(
        ["/bin/sh", FOLDER / "citus" / "node.sh"], check=True, env={**os.environ, **environ, "PGPASSFILE": str(into)}
    )
    assert into.read_text().splitlines() == [f"*:*:*:{n.lower()}-user:{n.lower()}-password" for n in names]
    assert stat.S_IMODE(into.stat().st_mode) == 0o600


def test_the_cluster_for_tests_joins_its_workers_at_the_addresses_they_have() -> None:
    tests = yaml.safe_load((manifests.ROOT / "tests" / "citus" / "compose.yaml").read_text())
    nodes = {name: one for name, one in tests["services"].items() if name != "join"}
    addresses = {name: one["networks"]["nodes"]["ipv4_address"] for name, one in nodes.items()}
    words = " ".join(tests["services"]["join"]["command"])
    assert re.findall(r"citus_add_node\('([\d.]+)', 5432\)", words) == [addresses["worker-1"], addresses["worker-2"]]
    assert f"citus_set_coordinator_host('{addresses['coordinator']}')" in words
    assert {one["image"] for one in tests["services"].values()} == {both("postgres")["image"]}
    assert (
        f"CITUS_URL=postgresql://postgres@{addresses['coordinator']}/postgres"
        in (manifests.ROOT / "tests" / "citus" / "compose.yaml").read_text()
    )
    assert set(tests["services"]["join"]["depends_on"]) == set(nodes)
