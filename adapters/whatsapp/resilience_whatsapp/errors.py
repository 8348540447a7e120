"""Every way in which the Graph API can fail, as typed errors, and what each means for retry and breaker.

Classified by the exact (code, subcode), then by the code, then by `is_transient`, by the HTTP status last: the API
answers the same code with different statuses. The texts are ours: Meta's may carry numbers.

    WhatsAppError
      InvalidMessageError         the message cannot be right; no request was made
      InvalidWebhookError         what came as a webhook is none
      ServiceClosedError          the service takes no more calls
      MediaTooLargeError          a download is larger than the caller takes
      MediaCorruptError           a download is not what the API said it is
      GraphError                  the API answered with an error
        GraphTransientError GraphThrottledError GraphAuthError GraphRequestError GraphRecipientError
        GraphTemplateError GraphPolicyError GraphSenderError
      AmbiguousOutcomeError       bytes left, and no verdict of the API came back
"""

from __future__ import annotations

from typing import Any

from resilience_core import CallRejected, ConfigurationError, Judgement, Verdict
from resilience_whatsapp._error_table import (
    ERROR_CODES,
    ERROR_SUBCODES,
    PERMISSION_CODES,
    Ambiguity,
    ErrorClass,
    ErrorCode,
    RetryAdvice,
)
from resilience_whatsapp._http_errors import judge_http_error


class WhatsAppError(Exception):
    """Base of the errors of this adapter."""

    record: Any = None
    """The `MessageRecord` of the send that raised it."""


class InvalidMessageError(WhatsAppError, ConfigurationError):
    """A message that the API would refuse, or send to somebody else; the text names the field and the fix."""


class InvalidWebhookError(WhatsAppError):
    """What came to the address of the webhooks is none."""


class ServiceClosedError(WhatsAppError):
    """The service was closed: it takes no more calls, and those that ran on after its time were cut short.

    The record of a send says whether it may have been carried out all the same.
    """


class MediaTooLargeError(WhatsAppError):
    """A file is larger than what the caller takes.

    Attributes:
        max_bytes: what the caller takes.
        size: bytes that the file has, where the API told.
    """

    def __init__(self, max_bytes: int, size: int | None) -> None:
        super().__init__(max_bytes, size)
        self.max_bytes = max_bytes
        self.size = size

    def __str__(self) -> str:
        size = "more" if self.size is None else str(self.size)
        return f"the file has {size} bytes, and max_bytes is {self.max_bytes}"


class MediaCorruptError(WhatsAppError):
    """What was downloaded has not the checksum, or not the size, that the API told.

    Attributes:
        media_id: the file's id.
        size, announced: bytes that came, and that the API told.
    """

    def __init__(self, media_id: str, size: int, announced: int | None) -> None:
        super().__init__(media_id, size, announced)
        self.media_id = media_id
        self.size = size
        self.announced = announced

    def __str__(self) -> str:
        return f"the file {self.media_id} came damaged: {self.size} bytes, the API told {self.announced}"


class GraphError(WhatsAppError):
    """The API answered with an error.

    Attributes:
        code, subcode: Graph's numbers; None where the answer had none.
        http_status: of the answer; None for an error that a webhook told.
        error_class: what kind of trouble it is.
        scope: what it applies to: "phone_number", "pair", "template", ...
        retry_after: seconds to wait, where a header told them; for a local error, until a request is made again.
        fbtrace_id: Meta's id of the request, for their support.
        local: whether no request was made, because an earlier one for the same template got this answer.
    """

    error_class = ErrorClass.REQUEST
    local: bool = False

    def __init__(
        self,
        code: int | None,
        subcode: int | None,
        http_status: int | None,
        scope: str,
        retry_after: float | None = None,
        fbtrace_id: str | None = None,
    ) -> None:
        super().__init__(code, subcode, http_status, scope, retry_after, fbtrace_id)
        self.code = code
        self.subcode = subcode
        self.http_status = http_status
        self.scope = scope
        self.retry_after = retry_after
        self.fbtrace_id = fbtrace_id

    @property
    def known(self) -> ErrorCode | None:
        """What the table says about its code; None for a code that is not in it."""
        return _row(self.code, self.subcode)

    @property
    def wait(self) -> float | None:
        """Seconds to wait: what a header told, else what the table states for the code; None where neither does."""
        if self.retry_after is not None:
            return self.retry_after
        return None if self.known is None else self.known.wait

    @property
    def advice(self) -> RetryAdvice:
        """What must happen before the same request can succeed."""
        known = self._as_told()
        return _USUAL_ADVICE[self.error_class] if known is None else known.advice

    @property
    def ambiguity(self) -> Ambiguity:
        """How likely it is that the request was carried out all the same."""
        known = self._as_told()
        return "none" if known is None else known.ambiguity

    def _as_told(self) -> ErrorCode | None:
        """The table's row, unless this is the other meaning of code 1: a malformed request."""
        known = self.known
        return known if known is not None and known.error_class is self.error_class else None

    @property
    def telemetry_type(self) -> str | None:
        """What metrics and traces show as `error.type`: the code; the class where there is none."""
        return None if self.code is None else str(self.code)

    def __str__(self) -> str:
        number = "no code" if self.code is None else f"code {self.code}"
        sub = "" if self.subcode is None else f"/{self.subcode}"
        where = "by webhook" if self.http_status is None else f"HTTP {self.http_status}"
        known = "; known from an earlier request, none was made" if self.local else ""
        return f"WhatsApp API: {self.error_class.value} ({number}{sub}, {where}){known}"


class GraphTransientError(GraphError):
    """The platform is in trouble; the message was not taken."""

    error_class = ErrorClass.TRANSIENT


class GraphThrottledError(GraphError):
    """A limit of `scope` is reached."""

    error_class = ErrorClass.THROTTLE


class GraphAuthError(GraphError):
    """The token is missing, expired or lacks a permission."""

    error_class = ErrorClass.AUTH


class GraphRequestError(GraphError):
    """The request is wrong; repeating it is useless."""

    error_class = ErrorClass.REQUEST


class GraphRecipientError(GraphError):
    """This recipient cannot be reached, now or at all."""

    error_class = ErrorClass.RECIPIENT


class GraphTemplateError(GraphError):
    """This template does not exist, is not usable, or its parameters do not fit."""

    error_class = ErrorClass.TEMPLATE


class GraphPolicyError(GraphError):
    """The business account is restricted."""

    error_class = ErrorClass.POLICY


class GraphSenderError(GraphError):
    """The sending number or account is not set up or not paid."""

    error_class = ErrorClass.SENDER


class AmbiguousOutcomeError(WhatsAppError):
    """The request left and no verdict of the API came back: it may have been carried out.

    Attributes:
        http_status: of the answer.
        what: what was wrong with it, in a few words of ours.
        retry_after, wait: seconds to wait, where a header told them.
        scope, advice, ambiguity: as for `GraphError`.
    """

    error_class = ErrorClass.AMBIGUOUS
    scope = "message"
    advice = RetryAdvice.RECONCILE

    def __init__(self, http_status: int, what: str, retry_after: float | None = None) -> None:
        super().__init__(http_status, what, retry_after)
        self.http_status = http_status
        self.what = what
        self.retry_after = self.wait = retry_after

    @property
    def ambiguity(self) -> Ambiguity:
        """How likely it is that the request was carried out: less for a 503, which tends to come before the work."""
        return "medium" if self.http_status == _UNAVAILABLE else "high"

    def __str__(self) -> str:
        return f"WhatsApp API: {self.what} (HTTP {self.http_status}); whether it acted is unknown"


_BY_CLASS: dict[ErrorClass, type[GraphError]] = {
    cls.error_class: cls
    for cls in (
        GraphTransientError,
        GraphThrottledError,
        GraphAuthError,
        GraphRequestError,
        GraphRecipientError,
        GraphTemplateError,
        GraphPolicyError,
        GraphSenderError,
    )
}
_USUAL_ADVICE = {
    ErrorClass.TRANSIENT: RetryAdvice.BACKOFF,
    ErrorClass.THROTTLE: RetryAdvice.WAIT,
    ErrorClass.AUTH: RetryAdvice.FIX,
    ErrorClass.REQUEST: RetryAdvice.NEVER,
    ErrorClass.RECIPIENT: RetryAdvice.NEVER,
    ErrorClass.TEMPLATE: RetryAdvice.FIX,
    ErrorClass.POLICY: RetryAdvice.REVIEW,
    ErrorClass.SENDER: RetryAdvice.FIX,
}
"""For a code that is not in the table, or is there with another class."""
_CODE_UNKNOWN_ERROR = 1  # platform trouble with a 5xx, a malformed request with a 4xx
_UNAVAILABLE = 503


def _row(code: int | None, subcode: int | None) -> ErrorCode | None:
    if code is None:
        return None
    if subcode is not None and (code, subcode) in ERROR_SUBCODES:
        return ERROR_SUBCODES[code, subcode]
    return ERROR_CODES.get(200 if code in PERMISSION_CODES else code)


def class_of(
    code: int | None, subcode: int | None, is_transient: bool, http_status: int | None
) -> tuple[ErrorClass, str]:
    """The class and the scope of an error answer, or of an error in a webhook (which has no HTTP status)."""
    troubled = is_transient or (http_status is not None and http_status >= 500)
    if code == _CODE_UNKNOWN_ERROR and not troubled:
        return ErrorClass.REQUEST, "request"
    row = _row(code, subcode)
    if row is not None:
        return row.error_class, row.scope
    if troubled:
        return ErrorClass.TRANSIENT, "platform"
    if http_status == 429:
        return ErrorClass.THROTTLE, "app"
    if http_status == 401:
        return ErrorClass.AUTH, "token"
    return ErrorClass.REQUEST, "request"


def graph_error(
    code: int | None,
    subcode: int | None,
    is_transient: bool,
    http_status: int | None,
    retry_after: float | None = None,
    fbtrace_id: str | None = None,
) -> GraphError:
    """The typed error for an error answer."""
    error_class, scope = class_of(code, subcode, is_transient, http_status)
    return _BY_CLASS[error_class](code, subcode, http_status, scope, retry_after, fbtrace_id)


def surely_not_carried_out(error: BaseException) -> bool:
    """Whether an error rules out that the request was carried out. One that tells nothing of it does not."""
    if isinstance(error, (GraphError, ConfigurationError, CallRejected)):
        return True
    if isinstance(error, AmbiguousOutcomeError) or not isinstance(error, Exception):
        return False
    judgement = judge_http_error(error)
    return judgement is not None and judgement.verdict is not Verdict.UNKNOWN


_VERDICTS = {ErrorClass.TRANSIENT: Verdict.TRANSIENT, ErrorClass.THROTTLE: Verdict.THROTTLED}


def classify_graph(error: Exception) -> Judgement:
    """The classifier for calls of the Graph API, through `GraphClient` or any other HTTP client.

    Errors of httpx and requests, and those that have an HTTP status (`status`, `status_code`, also of `response`), are
    understood. A `RuntimeError` or plain `ConnectionError` is UNKNOWN: HTTP clients raise it for trouble of the
    connection, and whether the request had left cannot be told. `at_least_once` retries it, `at_most_once` does not.
    What tells nothing, such as a `ValueError`, is PERMANENT: repeating it would not help.
    """
    if isinstance(error, GraphError):
        verdict = _VERDICTS.get(error.error_class, Verdict.PERMANENT)
        reason = f"graph {error.code}"
        # A wait that the table states is one for a limit: a retry that may not wait so long gives up at once.
        wait = error.wait if verdict is Verdict.THROTTLED else error.retry_after
        return Judgement(verdict, retry_after=wait, scope=error.scope, reason=reason)
    if isinstance(error, AmbiguousOutcomeError):
        return Judgement(Verdict.UNKNOWN, retry_after=error.retry_after, reason=error.what)
    return judge_http_error(error) or Judgement(Verdict.PERMANENT, reason=type(error).__qualname__)
