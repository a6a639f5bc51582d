"""The faults of a fake server."""

from enum import StrEnum


class Fault(StrEnum):
    """A fault in a response. The comments say what the client sees."""

    # Before the response
    NEVER_ANSWERS = "never-answers"  # the connection stays open without a response
    SLOW_HEADERS = "slow-headers"  # a correct response, `slow_ms` late
    HANGS_UP = "hangs-up"  # the connection is closed (FIN) without a response
    RESETS = "resets"  # the connection is reset (RST) without a response

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
    ECHO_400 = "echo-400"  # the message repeats the key and the request's body
    ECHO_500 = "echo-500"

    # 200, but no speech
    HTML = "html"  # an HTML page
    JSON_ERROR = "json-error"  # an error as JSON
    EMPTY = "empty"  # no body
    GARBAGE = "garbage"  # random bytes with the content type of the requested format
    GZIP_BOMB = "gzip-bomb"  # 260 kB that decompress to 256 MB

    # A correct response, delivered incorrectly
    RESETS_MID_BODY = "resets-mid-body"  # half of it, then a reset (RST)
    SHORT_BODY = "short-body"  # half of what Content-Length says, then the end (FIN)
    UNFINISHED_CHUNKS = "unfinished-chunks"  # half of it, chunked, then the end (FIN) without the last chunk
    STALLS = "stalls"  # half of it, then nothing; the connection stays open
    DRIPS = "drips"  # two bytes every `drip_ms`, without end
    ODD_CHUNKS = "odd-chunks"  # all of it, in chunks of odd sizes

    # A response with incorrect headers or content
    WRONG_TYPE = "wrong-type"  # Content-Type names another kind of audio
    NO_TYPE = "no-type"  # no Content-Type
    ODD_PCM = "odd-pcm"  # PCM without its last byte
    RATE_WRONG = "rate-wrong"  # x-sample-rate is twice the true one
    RATE_ZERO = "rate-zero"  # x-sample-rate is 0
    RATE_UNREADABLE = "rate-unreadable"  # x-sample-rate is not a number
    RATE_ABSENT = "rate-absent"  # no x-sample-rate
    WAV_SIZES_ZERO = "wav-sizes-zero"  # a WAV with sizes 0 in its header, as written before the length is known
    WAV_SIZES_MAX = "wav-sizes-max"  # the same with sizes 0xFFFFFFFF
    WAV_TRUNCATED = "wav-truncated"  # a WAV with half of the data that its header declares; the HTTP response is complete
    WAV_STEREO = "wav-stereo"  # a WAV of two channels, the right one silent
    WAV_16K = "wav-16k"  # a WAV at 16 kHz
    RUNS_ON = "runs-on"  # the speech, then `runaway_s` of noise
    BAD_BASE64 = "bad-base64"  # chat: the audio is not base64
    CUT_SHORT = "cut-short"  # chat: a correct response with finish_reason length
    ERROR_EVENT = "error-event"  # a stream of events: half of them, then an error event
    WRONG_JSON = "wrong-json"  # chat and voices: JSON with fields of other types
    NO_AUDIO = "no-audio"  # chat: a response with text alone
