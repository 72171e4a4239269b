"""What stands around every call, outermost first: guard, log and metrics, authentication, audit, then the handler.

guard            every exception and stray cancellation becomes a clean status; no text of an exception leaves
log and metrics  one line and one count a call, whatever happened, denials included
authentication   key, scope, limits; a stranger learns nothing, not even which methods there are
audit            no answer leaves before its row is committed; a key that has gone meanwhile is refused

Each method is wrapped once, when it is registered: a chain of interceptors would be walked for every call.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from services.kit import authn, calls, entries, keys, status
from services.kit.calls import Call
from services.kit.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    MdwError,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from services.kit.log import CallLines, get, redact
from services.kit.scopes import allows
from services.kit.version import VERSION_METADATA

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import grpc
    from google.protobuf.message import Message

    from services.kit.authn import Authenticator
    from services.kit.limits import KeyLimits, PeerThrottle
    from services.kit.methods import Method
    from services.kit.metrics import Metrics
    from services.kit.principals import Principal
    from services.kit.recorder import Recorder

    Context = grpc.aio.ServicerContext[Any, Any]

log = get("call")

MAX_WAITING_ROWS = 4_096
RECHECK_SECONDS = 3.0
DENIAL_SECONDS = 0.05
"""No denial is answered sooner, so that the time does not tell a missing key from a revoked one."""

STREAM_STARTED = "STREAM_STARTED"
_CREDENTIALS = frozenset({"x-api-key", "x-api-key-bin", "authorization", "authorization-bin"})
_UNKNOWN = "KEY_UNKNOWN"
_AFTER_COMMIT = ("COMMIT_UNKNOWN", "CALLER_GONE", "DEADLINE_PASSED")


class Answering:
    """Answers the calls of one server."""

    def __init__(
        self,
        *,
        recorder: Recorder,
        authenticator: Authenticator,
        limits: KeyLimits,
        metrics: Metrics,
        throttle: PeerThrottle,
        max_open_calls: int,
    ) -> None:
        self._recorder = recorder
        self._authenticator = authenticator
        self._limits = limits
        self._metrics = metrics
        self._throttle = throttle
        self.max_open_calls = max_open_calls
        self._open = 0
        self._loop = asyncio.get_running_loop()
        self._lines = CallLines()
        self.ready = False
        """True once the schema is verified: before that calls are answered UNAVAILABLE."""
        self.recheck_seconds = RECHECK_SECONDS

    @property
    def open_calls(self) -> int:
        return self._open

    @property
    def open_streams(self) -> int:
        return self._limits.open_streams

    async def unary(self, method: Method, body: bytes, context: Context) -> bytes:
        """Answers a call of one answer."""
        call, credentials = _begin(method.name, method.scopes, context)
        self._metrics.started(method)
        self._open += 1
        error: MdwError | None = None
        answer = b""
        try:
            await self._identify(call, credentials)
            self._authorize(call)
            request = self._parse(call, method, body)
            answer = (await method.function(request, context)).SerializeToString()
        except BaseException as raised:  # noqa: BLE001 - the guard: everything becomes a status
            error = self._judge(call, raised)
        await self._end(call, method, context, error)
        return answer

    async def stream(self, method: Method, body: bytes, context: Context) -> None:
        """Answers a call of many answers."""
        call, credentials = _begin(method.name, method.scopes, context)
        self._metrics.started(method)
        self._open += 1
        error: MdwError | None = None
        try:
            await self._identify(call, credentials)
            key = self._authorize(call)
            request = self._parse(call, method, body)
            with self._limits.stream(key):
                await self._send(call, method.function(request, context), context)
        except BaseException as raised:  # noqa: BLE001 - the guard: everything becomes a status
            error = self._judge(call, raised)
        await self._end(call, method, context, error)

    async def unknown(self, path: str, context: Context) -> None:
        """Answers a call of a method that does not exist: strangers hear what they hear everywhere."""
        call, credentials = _begin(path, (), context)
        self._metrics.started(None)
        self._open += 1
        error: MdwError = Unimplemented("METHOD_UNKNOWN", "there is no such method")
        try:
            await self._identify(call, credentials)
        except BaseException as raised:  # noqa: BLE001 - the guard: everything becomes a status
            error = self._judge(call, raised)
        await self._end(call, None, context, error)

    def unread_soon(self, path: str) -> None:
        """Counts a call that gRPC itself ended before any handler ran: an oversized body, a reset.

        Called by the interpreter when it drops a handler, so in any place and any thread.
        """
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._unread, path)

    def _unread(self, path: str) -> None:
        call = Call(method=path.rpartition("/")[2])
        self._recorder.floods.count(entries.entry(call, Cancelled.code, "REQUEST_UNREAD"))

    def _parse(self, call: Call, method: Method, body: bytes) -> Message:
        request = method.parse(body)
        if method.has_request_id:
            call.request_id = call.request_id or getattr(request, "request_id", "")
        call.begun = True
        return request

    async def _send(self, call: Call, messages: AsyncGenerator[Any, None], context: Context) -> None:
        """Sends a stream's messages while its key counts."""
        watch = asyncio.create_task(self._watch(call, asyncio.current_task()))
        try:
            async with aclosing(messages):
                async for message in messages:
                    if not call.started:
                        await self._start_stream(call)
                    call.messages += 1
                    await context.write(message if isinstance(message, bytes) else message.SerializeToString())
        finally:
            watch.cancel()

    async def _identify(self, call: Call, credentials: authn.Credentials) -> None:
        """Finds the key of a call; raises Unauthenticated, or Unavailable if nobody can say."""
        self._admit(call)
        try:
            secret = credentials.secret()
            digest = keys.digest(secret)
            key = self._authenticator.cached(digest) or await self._find_key(call, secret, digest)
            call.key = key
            call.key_preview = key.preview
            key.require_peer(call.peer)
        except Unauthenticated as error:
            if error.audit_reason != _UNKNOWN:  # that was counted before the look-up
                self._throttle.failed(call.peer)
            raise

    async def _find_key(self, call: Call, secret: str, digest: bytes) -> Principal:
        if not keys.is_well_formed(secret):
            raise Unauthenticated("KEY_MALFORMED")
        call.key_preview = keys.preview(secret)
        asks = not self._authenticator.asking(digest)
        if asks:
            await self._throttle.turn(call.peer)
        key = await self._authenticator.find(secret)
        if key is None:
            if not asks:  # who joins a question counts when it fails, not before
                self._throttle.failed(call.peer)
            raise Unauthenticated(_UNKNOWN)
        if asks:
            self._throttle.give_back(call.peer)
        return key

    def _admit(self, call: Call) -> None:
        """Refuses before anything is done while rows cannot be written, or too many calls are open."""
        if not self.ready:
            raise Unavailable("DATABASE_UNAVAILABLE", "the service is not ready", retry_after=1.0)
        if self._recorder.down:
            raise Unavailable("DATABASE_UNAVAILABLE", "the audit log cannot be written", retry_after=1.0)
        if self._open > self.max_open_calls or self._recorder.waiting > MAX_WAITING_ROWS:
            call.turned_away = True
            raise ResourceExhausted("TOO_MANY_CALLS", "the server is full", retry_after=1.0)

    def _authorize(self, call: Call) -> Any:
        key = call.key
        assert key is not None  # noqa: S101 - _identify sets it or raises
        if not allows(key.scopes, call.scopes):
            raise PermissionDenied(
                "SCOPE_MISSING",
                f"the key needs one of the scopes {', '.join(call.scopes)}",
                scopes=" ".join(call.scopes),
            )
        self._limits.take(key)
        return key

    async def _start_stream(self, call: Call) -> None:
        """Records a stream before its first message leaves."""
        if await self._recorder.submit(entries.entry(call, 0, STREAM_STARTED)):
            raise Unauthenticated("KEY_REFUSED")
        call.started = True

    async def _watch(self, call: Call, task: asyncio.Task[Any] | None) -> None:
        """Asks every few seconds whether the key of a stream still counts, and ends the stream if not."""
        while True:
            await asyncio.sleep(self.recheck_seconds)
            try:
                refused = await self._recorder.submit(entries.entry(call, entries.CHECK_ONLY))
                call.ended_by = Unauthenticated("KEY_REFUSED") if refused else None
            except MdwError as error:
                call.ended_by = error
            if call.ended_by and task is not None:
                task.cancel()
                return

    def _judge(self, call: Call, raised: BaseException) -> MdwError:
        """Returns the error that a raised exception becomes; a caller that went away is Cancelled."""
        if isinstance(raised, MdwError):
            return raised
        if isinstance(raised, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and call.ended_by is not None:
                task.uncancel()
                if not task.cancelling():
                    return call.ended_by
            if task is not None and task.cancelling():
                return _gone(call, raised)
        elif not isinstance(raised, Exception):
            raise raised
        error_id = uuid4().hex[:12]
        text = redact("".join(traceback.format_exception(raised)))
        log.error("internal_error", error_id=error_id, method=call.method, call_id=call.call_id, trace=text)
        return Internal(error_id)

    async def _end(self, call: Call, method: Method | None, context: Context, error: MdwError | None) -> None:
        """Records, logs and counts a call, then answers it."""
        gone = error if isinstance(error, (Cancelled, DeadlineExceeded)) and error.__cause__ else None
        try:
            error = await self._settle(call, method, error, wait=gone is None)
        finally:
            self._open -= 1
            self._note(call, method, error)
        if gone is not None and isinstance(gone.__cause__, asyncio.CancelledError):
            raise gone.__cause__  # grpc.aio leaks memory when a cancellation is swallowed
        if isinstance(error, Unauthenticated):
            await asyncio.sleep(call.start + DENIAL_SECONDS - time.monotonic())
        if error is not None:
            await status.abort(context, error, VERSION_METADATA)
        context.set_trailing_metadata((VERSION_METADATA, *call.trailers))

    async def _settle(
        self, call: Call, method: Method | None, error: MdwError | None, *, wait: bool
    ) -> MdwError | None:
        """Commits the call's row and returns the error that it is answered with."""
        row = self._row(call, method, error)
        if row is None:
            return error
        if call.turned_away or (not call.begun and self._recorder.down):
            # It learns nothing, and to hold it until a slow database has its row would keep the server full.
            self._recorder.floods.count(row)
            return error
        future = self._recorder.submit(row) if call.begun else self._recorder.floods.record(row)
        if not wait:
            return error
        try:
            refused = await future
        except MdwError as away:
            return away
        return Unauthenticated("KEY_REFUSED") if refused else error

    def _row(self, call: Call, method: Method | None, error: MdwError | None) -> entries.Entry | None:
        """Returns the row that is still to be written; a committed change has left its own."""
        if call.recorded and (error is None or error.reason in _AFTER_COMMIT):
            return None
        counted = call.recorded or call.started
        if error is not None:
            code, reason = error.code, error.audit_reason
        else:
            code, reason = (0, "") if method is None or method.recorded else (entries.CHECK_ONLY, "")
        messages = call.messages if call.started or code else 1
        return entries.entry(call, code, reason, messages=messages, count=0 if counted else 1)

    def _note(self, call: Call, method: Method | None, error: MdwError | None) -> None:
        code = "OK" if error is None else status.name(error.code)
        seconds = time.monotonic() - call.start
        self._metrics.ended(method, code, seconds, call.messages, error.audit_reason if error is not None else "")
        fields = {
            "event": "call",
            "level": "info",
            "timestamp": datetime.now(UTC),
            "method": call.method,
            "code": code,
            "ms": round(seconds * 1e3, 2),
            "key": call.key_id,
            "peer": call.peer,
            "call_id": call.call_id,
        }
        if error is not None:
            fields["reason"] = error.audit_reason
        if call.messages:
            fields["messages"] = call.messages
        if call.request_id:
            fields["request_id"] = call.request_id
        self._lines.write(fields)


def _begin(method: str, scopes: tuple[str, ...], context: Context) -> tuple[Call, authn.Credentials]:
    """Makes the call current; each RPC has a task of its own, whose context ends with it."""
    call = Call(method=method, scopes=scopes, peer=_peer(context))
    remaining = context.time_remaining()
    if remaining is not None:
        call.deadline = call.start + remaining
    credentials = authn.Credentials()
    for name, value in context.invocation_metadata() or ():
        if name in _CREDENTIALS:
            credentials.take(name, value)
        elif name == "x-request-id" and isinstance(value, str):
            call.request_id = entries.clean(value, 100)
    calls.enter(call)
    return call, credentials


def _peer(context: Context) -> str:
    try:
        return calls.address(context.peer())
    except UnicodeDecodeError:
        return ""


def _gone(call: Call, cause: BaseException) -> MdwError:
    """Returns the error of a call whose caller went away or whose time is over, caused by the cancellation."""
    late = call.deadline is not None and time.monotonic() >= call.deadline
    error: MdwError
    if late:
        error = DeadlineExceeded("DEADLINE_PASSED", "the deadline passed")
    else:
        error = Cancelled("CALLER_GONE", "the caller went away")
    error.__cause__ = cause
    return error
