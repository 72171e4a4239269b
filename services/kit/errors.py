"""The errors that servicers and stores raise.

    MdwError
      InvalidArgument     a field is wrong; names it
      Unauthenticated     no key, or one that does not count
      PermissionDenied    a valid key without the scope
      NotFound
      AlreadyExists
      FailedPrecondition  not possible in this state
      OutOfRange
      Unimplemented
      ResourceExhausted   too much at once; says when to try again
      Aborted             lost against a concurrent change; try again
      Unavailable         something behind us is away; says when to try again
      DeadlineExceeded
      Cancelled
      Internal            a bug; the text is fixed and carries an error id

`reason` is a value of `mdw.type.v1.ErrorReason`. Only the kit turns these into gRPC statuses (kit/status.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_VIOLATIONS = 20
"""More would push the status over the 8 KB of metadata, and gRPC would drop the whole answer."""


class MdwError(Exception):
    """An answer that is not OK, with a reason that callers may branch on."""

    code: ClassVar[int] = 2

    def __init__(self, reason: str, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = metadata
        self.audit_reason = reason
        """What the audit row says; more exact than `reason` where the caller must not learn it."""


class InvalidArgument(MdwError):
    """One or more fields of the request are wrong."""

    code = 3

    def __init__(self, field: str, description: str, *, reason: str = "FIELD_INVALID", **metadata: str) -> None:
        super().__init__(reason, f"{field}: {description}", field=field, **metadata)
        self.violations: tuple[tuple[str, str], ...] = ((field, description),)

    @classmethod
    def many(cls, violations: Iterable[tuple[str, str]], *, reason: str = "FIELD_INVALID") -> InvalidArgument:
        """Makes one error of several (field, description) pairs, of which the first 20 are kept."""
        kept = tuple(violations)[:MAX_VIOLATIONS]
        error = cls(*kept[0], reason=reason)
        error.violations = kept
        return error


class Unauthenticated(MdwError):
    """The call has no key that counts. All of them read the same; only the audit knows which it was."""

    code = 16

    def __init__(self, audit_reason: str = "KEY_INVALID") -> None:
        super().__init__("KEY_INVALID", "the call needs a valid API key in the metadata x-api-key")
        self.audit_reason = audit_reason


class PermissionDenied(MdwError):
    """The key is valid and may not do this."""

    code = 7


class NotFound(MdwError):
    """There is no such thing."""

    code = 5


class AlreadyExists(MdwError):
    """The thing to be made is there already."""

    code = 6


class FailedPrecondition(MdwError):
    """The request is fine, the state does not allow it."""

    code = 9


class Aborted(MdwError):
    """The change lost against a concurrent one and may be tried again."""

    code = 10


class OutOfRange(MdwError):
    """The request asks for what lies beyond the known range."""

    code = 11


class Unimplemented(MdwError):
    """There is no such method."""

    code = 12


class Internal(MdwError):
    """A bug; the message says nothing but the id under which the log has the rest."""

    code = 13

    def __init__(self, error_id: str) -> None:
        super().__init__("INTERNAL_ERROR", f"internal error; id={error_id}", error_id=error_id)


class DeadlineExceeded(MdwError):
    """The call's time is over."""

    code = 4


class Cancelled(MdwError):
    """The caller went away."""

    code = 1


class Retryable(MdwError):
    """An error that says in how many seconds another try makes sense."""

    def __init__(self, reason: str, message: str, *, retry_after: float, **metadata: str) -> None:
        super().__init__(reason, message, **metadata)
        self.retry_after = retry_after


class ResourceExhausted(Retryable):
    """A limit is reached: of a key, of a peer, of this process or of the provider."""

    code = 8


class Unavailable(Retryable):
    """Something that the call needs is away."""

    code = 14
