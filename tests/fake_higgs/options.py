"""How a fake server behaves."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from .faults import Fault

Dialect = Literal["boson", "boson-chat", "openai-speech"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)


class Options(BaseModel):
    """What a fake server is, and how it misbehaves.

    Attributes:
        dialect: the rules that ``/v1/audio/speech`` obeys; ``/v1/chat/completions`` is there in each.
        key: the key that it wants as ``Authorization: Bearer``; None wants none.
        rate: sample rate of its audio, Hz.
        rate_header: whether ``openai-speech`` tells the rate in ``x-sample-rate``, as SGLang does.
        events: whether ``openai-speech`` wraps a stream into events unless ``stream_format`` is ``audio``, as newer vLLM does.
        delay_ms: from a request to the first byte of its answer, at least.
        chunk_bytes: size of a chunk of a streamed answer.
        chunk_delay_ms: between two chunks of a streamed answer.
        fault: what goes wrong in answers that would hold speech; None is nothing. `Fake.misbehave` changes it.
        fault_times: how many answers it goes wrong in; None is all.
        slow_ms: how late `Fault.SLOW_HEADERS` is.
        drip_ms: between two drops of `Fault.DRIPS`.
        cut_ms: how long half an answer is left with the client before a fault cuts the connection.
        retry_after_s: what the answers with ``Retry-After`` ask for.
        runaway_s: seconds of noise that `Fault.RUNS_ON` adds.
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
