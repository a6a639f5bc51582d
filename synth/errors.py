"""Errors of speech synthesis.

ProsodyError                  (prosody_tagger.errors)
├── BadInput
│   └── RefusedRequest        the backend cannot speak this: unknown voice, text too long, speed out of range
└── BackendError              exit code 3
    ├── BackendBusy           too many requests; retry later
    ├── BackendUnavailable    a library, a server or a key is missing; the message says how to get it
    └── BackendTimeout        it did not respond in time
"""

from prosody_tagger.errors import BadInput, ProsodyError


class RefusedRequest(BadInput):
    """The backend does not support the request."""


class BackendError(ProsodyError):
    """The backend failed, and the request is not to blame."""

    exit_code = 3


class BackendBusy(BackendError):
    """The backend has too many requests.

    Attributes:
        retry_after: seconds after which to retry.
    """

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackendUnavailable(BackendError):
    """A library, a server or a key that the backend needs is missing."""


class BackendTimeout(BackendError):
    """The backend did not respond in time."""
