"""What Kubernetes' restricted profile asks of a pod, and a little more: checked before a cluster refuses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
POD = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,  # ours: the profile does not ask it
}
HOST = ("hostNetwork", "hostPID", "hostIPC")


def problems(manifests: Iterable[dict[str, Any]]) -> list[str]:
    """Returns what pods of these manifests lack or may not have, each with the kind, name and field."""
    found: list[str] = []
    for one in manifests:
        pod = one.get("spec", {}).get("template", {}).get("spec")
        if pod:
            place = f"{one['kind']} {one['metadata']['name']}"
            found += [f"{place}: {problem}" for problem in (*_of_pod(pod), *_of_containers(pod))]
    return found


def _of_pod(pod: dict[str, Any]) -> Iterator[str]:
    yield from _differing("securityContext", pod.get("securityContext", {}), POD)
    if pod.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken is not false"
    yield from (f"{name} is set" for name in HOST if pod.get(name))
    for volume in pod.get("volumes", ()):
        yield from (f"volume {volume['name']} is a {kind}" for kind in volume.keys() - VOLUMES - {"name"})


def _of_containers(pod: dict[str, Any]) -> Iterator[str]:
    for container in [*pod.get("initContainers", ()), *pod["containers"]]:
        name = f"container {container['name']}"
        context = container.get("securityContext", {})
        yield from (f"{name}: {problem}" for problem in _differing("securityContext", context, CONTAINER))
        if context.get("privileged") or context.get("runAsUser") == 0:
            yield f"{name}: privileged, or root"
        if "memory" not in container.get("resources", {}).get("limits", {}):
            yield f"{name}: no limit of memory"
        yield from (f"{name}: hostPort" for port in container.get("ports", ()) if "hostPort" in port)


def _differing(place: str, given: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    for field, value in wanted.items():
        if given.get(field) != value:
            yield f"{place}.{field} is {given.get(field)!r}, not {value!r}"
