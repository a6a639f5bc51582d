"""Every way in which a fake server can misbehave."""

from enum import StrEnum


class Fault(StrEnum):
    """What goes wrong. The comment of each says what the client sees."""

    # Before the answer
    NEVER_ANSWERS = "never-answers"  # the connection is open, and nothing comes
    SLOW_HEADERS = "slow-headers"  # the right answer, `slow_ms` late
    HANGS_UP = "hangs-up"  # the connection is closed (FIN) without an answer
    RESETS = "resets"  # the connection is reset (RST) without an answer

    # An error
    UNAUTHORIZED = "unauthorized"  # 401
    FORBIDDEN = "forbidden"  # 403
    REDIRECT = "redirect"  # 307 to another path
    TOO_LONG = "too-long"  # 400 input_too_long
    BUSY_SECONDS = "busy-seconds"  # 429, Retry-After in seconds
    BUSY_DATE = "busy-date"  # 429, Retry-After as a date
    BUSY = "busy"  # 429 without Retry-After
    ERROR_500 = "error-500"
    ERROR_502 = "error-502"  # an HTML page, as a proxy sends it
    ERROR_503 = "error-503"
    ERROR_503_SECONDS = "error-503-seconds"  # 503, Retry-After in seconds
    ECHO_400 = "echo-400"  # the message holds the key and all that was sent
    ECHO_500 = "echo-500"

    # 200, but no speech
    HTML = "html"  # an HTML page
    JSON_ERROR = "json-error"  # an error as JSON
    EMPTY = "empty"  # no body
    GARBAGE = "garbage"  # random bytes, declared as what was asked for
    GZIP_BOMB = "gzip-bomb"  # 260 kB that unpack to 256 MB

    # The right answer, badly delivered
    RESETS_MID_BODY = "resets-mid-body"  # half of it, then a reset (RST)
    SHORT_BODY = "short-body"  # half of what Content-Length says, then the end (FIN)
    UNFINISHED_CHUNKS = "unfinished-chunks"  # half of it, chunked, then the end (FIN) without the last chunk
    STALLS = "stalls"  # half of it, then nothing, the connection open
    DRIPS = "drips"  # two bytes every `drip_ms`, for ever
    ODD_CHUNKS = "odd-chunks"  # all of it, in chunks of odd size

    # An answer that says something wrong of itself
    WRONG_TYPE = "wrong-type"  # Content-Type names another kind of audio
    NO_TYPE = "no-type"  # no Content-Type
    ODD_PCM = "odd-pcm"  # PCM without its last byte
    RATE_WRONG = "rate-wrong"  # x-sample-rate is twice the true one
    RATE_ZERO = "rate-zero"  # x-sample-rate is 0
    RATE_UNREADABLE = "rate-unreadable"  # x-sample-rate is no number
    RATE_ABSENT = "rate-absent"  # no x-sample-rate
    WAV_SIZES_ZERO = "wav-sizes-zero"  # a WAV whose header was written before its data: sizes 0
    WAV_SIZES_MAX = "wav-sizes-max"  # the same with sizes 0xFFFFFFFF
    WAV_TRUNCATED = "wav-truncated"  # a WAV with half of the data that its header promises, HTTP in order
    WAV_STEREO = "wav-stereo"  # a WAV of two channels, the right one silent
    WAV_16K = "wav-16k"  # a WAV at 16 kHz
    RUNS_ON = "runs-on"  # the speech, then `runaway_s` of noise
    BAD_BASE64 = "bad-base64"  # chat: the audio is not base64
    CUT_SHORT = "cut-short"  # chat: the right answer, with a finish_reason that says it was cut at the longest
    ERROR_EVENT = "error-event"  # a stream of events: half of them, then an error in place of the end
    WRONG_JSON = "wrong-json"  # chat and voices: JSON of other types than agreed
    NO_AUDIO = "no-audio"  # chat: an answer in text alone
