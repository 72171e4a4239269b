"""Channels to the warehouse: all replicas of a service in turn, calls that end, and another try where it is safe."""

from __future__ import annotations

import ipaddress
import json
import os
from typing import TYPE_CHECKING, Any, Self

import grpc

from mdw_client.credentials import KEY_HEADER, Key, Tls, key_source
from mdw_client.errors import ConfigurationError, ForkedProcessError
from mdw_client.renewal import Renewed, RenewedAioChannel, RenewedChannel
from mdw_client.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEFAULT_TIMEOUT = 30.0
"""Seconds a call may take, retries included, when it brings no timeout of its own. Streams have none."""

_MEBIBYTE = 1024 * 1024
# These two may be tried again without harm: reads, changes that are idempotent, and changes that carry a request_id.
# CANCELLED is what a call ends with that reached a server in the moment in which it stopped; our servers say it to no
# caller that is still there. Waits of about 0.1, 0.3, 0.9 and 2.7 s outlast the restart of a service or of Postgres.
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "3s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
}
OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    # The name server is asked for addresses alone, not for a service config of its own.
    ("grpc.service_config_disable_resolution", 1),
    # New replicas are found within two seconds, not thirty: a rolling restart may replace all of them in between.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    # A service that comes back is found within half a second, not 2.4 (measured with gRPC's own values).
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Despite its name, how long one attempt to connect may take at least: a TLS handshake over a slow line.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    # Servers that nobody configured cut clients off that ping more often than every five minutes, or without a call.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_receive_message_length", 16 * _MEBIBYTE),
    ("grpc.max_send_message_length", 4 * _MEBIBYTE),
    # Requests above this size would not be tried again; the default is 256 KiB.
    ("grpc.per_rpc_retry_buffer_size", 4 * _MEBIBYTE),
    # Between a soft and a hard limit gRPC drops answers with long error details at random.
    ("grpc.max_metadata_size", 16_384),
    ("grpc.absolute_max_metadata_size", 16_384),
    ("grpc.primary_user_agent", f"mdw-client/{__version__}"),
)

_pid_of_first_channel: int | None = None


def aio_channel(
    target: str,
    *,
    key: Key | None = None,
    tls: Tls | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    allow_plaintext: bool = False,
    timeout: float | None = DEFAULT_TIMEOUT,
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.aio.Channel:
    """Makes a channel for asyncio. `target` is host:port, `dns:///host:port`, several addresses, or `unix:path`.

    Plaintext is refused off loopback unless `allow_plaintext`. `options` come after, and win over, the defaults.
    """
    arguments = _arguments(target, tls, credentials, options, allow_plaintext=allow_plaintext)

    def make() -> grpc.aio.Channel:
        secure = credentials or (tls.credentials() if tls else None)
        if secure is None:
            return grpc.aio.insecure_channel(target, arguments)
        return grpc.aio.secure_channel(target, secure, arguments)

    bare: Any = RenewedAioChannel(Renewed(make, tls)) if tls and tls.files and not credentials else make()
    return _AioChannel(bare, _Defaults(key, timeout))


def channel(
    target: str,
    *,
    key: Key | None = None,
    tls: Tls | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    allow_plaintext: bool = False,
    timeout: float | None = DEFAULT_TIMEOUT,
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.Channel:
    """Makes a blocking channel; arguments as for `aio_channel`."""
    arguments = _arguments(target, tls, credentials, options, allow_plaintext=allow_plaintext)

    def make() -> grpc.Channel:
        secure = credentials or (tls.credentials() if tls else None)
        if secure is None:
            return grpc.insecure_channel(target, arguments)
        return grpc.secure_channel(target, secure, arguments)

    bare: Any = RenewedChannel(Renewed(make, tls)) if tls and tls.files and not credentials else make()
    return wrap(bare, key=key, timeout=timeout)


def wrap(bare: grpc.Channel, *, key: Key | None = None, timeout: float | None = DEFAULT_TIMEOUT) -> grpc.Channel:
    """Gives the calls of any blocking channel the key and the default timeout."""
    return _Channel(bare, _Defaults(key, timeout))


def is_loopback(target: str) -> bool:
    """Says whether a target can be nothing but this machine."""
    scheme, colon, rest = target.partition(":")
    if scheme in ("unix", "unix-abstract") and colon:
        return True
    addresses = rest if scheme in ("dns", "ipv4", "ipv6") and not rest.isdigit() else target
    return all(_is_loopback_host(address.rpartition("/")[2]) for address in addresses.split(","))


def _is_loopback_host(address: str) -> bool:
    host = address if address.count(":") > 1 and "]" not in address else address.partition("]")[0].lstrip("[")
    if "[" not in address and address.count(":") == 1:
        host = address.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _arguments(
    target: str,
    tls: Tls | None,
    credentials: grpc.ChannelCredentials | None,
    options: Sequence[tuple[str, Any]],
    *,
    allow_plaintext: bool,
) -> list[tuple[str, Any]]:
    """Returns the options of a new channel; raises ConfigurationError where a key would travel in the clear."""
    _note_process()
    arguments = list(OPTIONS)
    if is_loopback(target):
        arguments.append(("grpc.enable_http_proxy", 0))  # http_proxy is meant for other machines
    elif tls is None and credentials is None and not allow_plaintext:
        raise ConfigurationError(
            f"{target} is not this machine, and without TLS the key would travel in the clear: "
            "set MDW_TLS=1 or MDW_TLS_CA_FILE, or MDW_ALLOW_PLAINTEXT=1 if something in between does TLS"
        )
    if tls is not None and credentials is None and tls.server_name:
        arguments.append(("grpc.ssl_target_name_override", tls.server_name))
    return [*arguments, *options]


def _note_process() -> None:
    global _pid_of_first_channel  # noqa: PLW0603 # gRPC's threads are the process', too
    if _pid_of_first_channel is None:
        _pid_of_first_channel = os.getpid()
    _refuse_fork(_pid_of_first_channel)


def _refuse_fork(pid: int) -> None:
    if pid != os.getpid():
        raise ForkedProcessError


class _Defaults:
    """What a call gets unless it says otherwise."""

    def __init__(self, key: Key | None, timeout: float | None) -> None:
        self._key = key_source(key)
        self._pid = os.getpid()
        self.timeout = timeout

    def metadata(self, given: Sequence[tuple[str, str | bytes]] | None) -> Sequence[tuple[str, str | bytes]] | None:
        _refuse_fork(self._pid)
        if self._key is None:
            return given
        return (*(given or ()), (KEY_HEADER, self._key()))


class _Callable:
    """A method of a channel, blocking or not, with defaults.

    Not an interceptor: those cost asyncio a task a call and change what a stream's call object can do.
    """

    def __init__(self, bare: Callable[..., Any], defaults: _Defaults, timeout: float | None) -> None:
        self._bare = bare
        self._defaults = defaults
        self._timeout = timeout

    def __call__(self, request: Any, timeout: float | None = None, metadata: Any = None, **others: Any) -> Any:
        return self._bare(request, **self._options(timeout, metadata), **others)

    def with_call(self, request: Any, timeout: float | None = None, metadata: Any = None, **others: Any) -> Any:
        return self._bare.with_call(request, **self._options(timeout, metadata), **others)  # type: ignore[attr-defined]

    def future(self, request: Any, timeout: float | None = None, metadata: Any = None, **others: Any) -> Any:
        return self._bare.future(request, **self._options(timeout, metadata), **others)  # type: ignore[attr-defined]

    def _options(self, timeout: float | None, metadata: Any) -> dict[str, Any]:
        return {
            "timeout": self._timeout if timeout is None else timeout,
            "metadata": self._defaults.metadata(metadata),
        }


class _Channel(grpc.Channel):
    """A blocking channel whose calls have defaults."""

    def __init__(self, bare: grpc.Channel, defaults: _Defaults) -> None:
        self._bare = bare
        self._defaults = defaults

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Callable(self._bare.unary_unary(*args, **kwargs), self._defaults, self._defaults.timeout)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Callable(self._bare.unary_stream(*args, **kwargs), self._defaults, None)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Callable(self._bare.stream_unary(*args, **kwargs), self._defaults, None)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Callable(self._bare.stream_stream(*args, **kwargs), self._defaults, None)

    def subscribe(
        self,
        callback: Callable[[grpc.ChannelConnectivity], None],
        try_to_connect: bool = False,  # noqa: FBT001, FBT002 # gRPC's signature
    ) -> None:
        self._bare.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self._bare.unsubscribe(callback)

    def close(self) -> None:
        self._bare.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _AioChannel(grpc.aio.Channel):
    """An asyncio channel whose calls have defaults."""

    def __init__(self, bare: grpc.aio.Channel, defaults: _Defaults) -> None:
        self._bare = bare
        self._defaults = defaults

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Callable(self._bare.unary_unary(*args, **kwargs), self._defaults, self._defaults.timeout)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Callable(self._bare.unary_stream(*args, **kwargs), self._defaults, None)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Callable(self._bare.stream_unary(*args, **kwargs), self._defaults, None)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Callable(self._bare.stream_stream(*args, **kwargs), self._defaults, None)

    async def close(self, grace: float | None = None) -> None:
        await self._bare.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 # gRPC's
        return self._bare.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._bare.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._bare.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
