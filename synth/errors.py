"""What can go wrong between a text and its speech.

ProsodyError                  (prosody_tagger.errors)
├── BadInput
│   └── RefusedRequest        the backend cannot speak this: unknown voice, text too long, speed out of range
└── BackendError              exit code 3
    ├── BackendBusy           it takes no more requests for now; retry later
    ├── BackendUnavailable    a library, a server or a key is missing; the message says how to get it
    └── BackendTimeout        it was there, but took too long
"""

from prosody_tagger.errors import BadInput, ProsodyError


class RefusedRequest(BadInput):
    """The backend is there, but cannot do what was asked."""


class BackendError(ProsodyError):
    """The backend failed through no fault of the text."""

    exit_code = 3


class BackendBusy(BackendError):
    """No more requests are taken for now.

    Attributes:
        retry_after: seconds after which to try again.
    """

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackendUnavailable(BackendError):
    """Something that the backend needs is missing."""


class BackendTimeout(BackendError):
    """The backend did not answer in the time that it was given."""
