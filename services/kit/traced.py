"""Answers calls as services.kit.answering does, each in a span."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.kit import calls, tracing
from services.kit.answering import Answering

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import grpc

    from services.kit.methods import Method

    Context = grpc.aio.ServicerContext[Any, Any]


class TracedAnswering(Answering):
    """The caller's span, if it names one, is the parent."""

    async def unary(self, method: Method, body: bytes, context: Context) -> bytes:
        with _span(method, context) as noted:
            try:
                return await super().unary(method, body, context)
            finally:
                _note(noted, context)

    async def stream(self, method: Method, body: bytes, context: Context) -> None:
        with _span(method, context) as noted:
            try:
                await super().stream(method, body, context)
            finally:
                _note(noted, context)


def _span(method: Method, context: Context) -> AbstractContextManager[tracing.Noted]:
    return tracing.span(
        f"{method.service}/{method.name}",
        tracing.SERVER,
        tuple(context.invocation_metadata() or ()),
        rpc__system="grpc",
        rpc__service=method.service,
        rpc__method=method.name,
    )


def _note(noted: tracing.Noted, context: Context) -> None:
    call = calls.present()
    code: Any = context.code()  # grpc.aio's is a number, or None; its types say otherwise
    noted.add(rpc__grpc__status_code=code or 0)
    if call is not None:
        noted.add(mdw__call_id=str(call.call_id), client__address=call.peer)
        if call.key_id is not None:
            noted.add(mdw__key_id=str(call.key_id))
        if call.request_id:
            noted.add(mdw__request_id=call.request_id)
