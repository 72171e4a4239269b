"""The guide to operations names what is there: commands, exit codes, folders, deployments."""

from __future__ import annotations

import re
import shlex

import click
import pytest
import yaml

from deploy import manifests
from mdw_client.cli.app import mdw
from migrator.errors import Exit
from migrator.usage import parse

GUIDE = (manifests.ROOT / "docs" / "operations.md").read_text()
PIECES = re.findall(r"`([^`\n]+)`", GUIDE) + [
    line for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines()
]


def lines(program: str) -> list[list[str]]:
    """Returns the arguments of each line that starts a program."""
    found = (re.search(rf"(?:^|; do |&& ){re.escape(program)} ([^;&]+)", piece) for piece in PIECES)
    return [shlex.split(each[1].replace("$key", "new.key")) for each in found if each]


def test_every_line_of_the_migrator_is_one_that_it_takes() -> None:
    assert len(lines("python -m migrator")) >= 6
    for arguments in lines("python -m migrator"):
        parse(arguments)


@pytest.mark.parametrize("arguments", lines("mdw"), ids=" ".join)
def test_every_line_of_the_client_names_a_command_and_its_options(arguments) -> None:
    command: click.Command = mdw
    while isinstance(command, click.Group):
        name = arguments.pop(0)
        assert name in command.commands
        command = command.commands[name]
    with click.Context(command, info_name=command.name) as context:
        command.parse_args(context, arguments)


def test_every_exit_code_of_the_migrator_is_explained() -> None:
    listed = re.findall(r"^\| (\d+) \| [^|]+ \| [^|]*\|$", GUIDE, re.MULTILINE)
    assert {int(code) for code in listed} == {int(code) for code in Exit}


def test_folders_and_deployments_that_it_names_are_there() -> None:
    named = {f"deploy/k8s/{each}" for each in re.findall(r"`((?:overlays|components)/[\w-]+)`", GUIDE)}
    for folder in {*re.findall(r"-k (deploy/\S+)", GUIDE), *named}:
        assert (manifests.ROOT / folder / "kustomization.yaml").exists(), folder
    rendered = list(yaml.safe_load_all(manifests.render("production")))
    deployments = {one["metadata"]["name"] for one in rendered if one["kind"] == "Deployment"}
    assert set(re.findall(r"deployment/(\w+)", GUIDE)) == deployments


def test_what_it_says_of_files_is_true() -> None:
    for path in set(re.findall(r"`((?:deploy|docs|migrator)/[\w./-]+)`", GUIDE)) - {"deploy/.env"}:
        assert (manifests.ROOT / path).exists(), path
