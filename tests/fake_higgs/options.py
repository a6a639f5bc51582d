"""Options of a fake server."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from .faults import Fault

Dialect = Literal["boson", "boson-chat", "openai-speech"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)


class Options(BaseModel):
    """The server to imitate, and its faults.

    Attributes:
        dialect: the rules of ``/v1/audio/speech``; every dialect has ``/v1/chat/completions``.
        key: the API key that it requires as ``Authorization: Bearer``; None requires none.
        rate: sample rate of its audio, Hz.
        rate_header: whether ``openai-speech`` gives the rate in ``x-sample-rate``, as SGLang does.
        events: whether ``openai-speech`` streams server-sent events unless ``stream_format`` is ``audio``, as newer vLLM does.
        delay_ms: least time from a request to the first byte of its response.
        chunk_bytes: size of a chunk of a streamed response.
        chunk_delay_ms: between two chunks of a streamed response.
        fault: the fault of responses with speech; None is none. `Fake.misbehave` changes it.
        fault_times: how many responses have the fault; None is all.
        slow_ms: delay of `Fault.SLOW_HEADERS`.
        drip_ms: between two writes of `Fault.DRIPS`.
        cut_ms: time from half a response to the end of the connection, for faults that break it off.
        retry_after_s: value of ``Retry-After``, in seconds.
        runaway_s: duration of the noise that `Fault.RUNS_ON` adds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dialect: Dialect = "boson"
    key: str | None = "fake-key"
    rate: int = Field(default=24_000, ge=8_000, le=48_000)
    rate_header: bool = True
    events: bool = False
    delay_ms: float = Field(default=0, ge=0)
    chunk_bytes: int = Field(default=4_800, ge=1)
    chunk_delay_ms: float = Field(default=0, ge=0)
    fault: Fault | None = None
    fault_times: int | None = Field(default=None, ge=0)
    slow_ms: float = Field(default=5_000, ge=0)
    drip_ms: float = Field(default=1_000, ge=0)
    cut_ms: float = Field(default=50, ge=0)
    retry_after_s: int = Field(default=1, ge=0)
    runaway_s: float = Field(default=300, ge=0)
