"""Settings of the backend `higgs-local`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class HiggsLocalSettings(BaseModel):
    """Which Higgs model is run in this process, and how. Names are tried as a folder first, then on the Hugging Face hub.

    Attributes:
        model: folder or hub name of the checkpoint, in transformers' format.
        revision: commit, tag or branch of the model on the hub; a commit pins it. None is the newest.
        codec: folder or hub name of the codec. None is the folder ``codec`` within or beside the model's, else the one that the
            model's processor names.
        codec_revision: the same for the codec.
        adapters: folder that holds LoRA adapters, one per subfolder.
        device: auto is the first GPU, else the processor; or cpu, cuda, cuda:1 ...
        dtype: auto is bfloat16 on a GPU and float32 elsewhere.
        decode: how decoding steps run. graph replays CUDA graphs; compile also has torch.compile fuse the step; eager does neither;
            auto is compile on a GPU and eager elsewhere.
        max_batch: most requests that are decoded in one batch.
        scene: description of the acoustic scene; empty for none.
        speakers: descriptions of the speakers [SPEAKER0], [SPEAKER1] ... of a text.
        temperature: 0 takes the most likely code; higher values give more variation.
        top_p: nucleus sampling: draw from the most likely codes whose probabilities sum to this value.
        top_k: draw from at most this many codes.
        ras_window: window of repetition-aware sampling, in frames; 0 turns it off.
        ras_repeats: a code that occurs this often in its codebook's window is drawn again, from all codes.
        first_frames: frames of the first audio chunk; a frame is 40 ms.
        chunk_frames: frames of every later chunk.
        context_seconds: longest previous sentence that is added to the prompt, to keep the voice.
        max_seconds_per_char: upper bound for the duration of a small letter; capitals and CJK characters may take 3 times as long,
            digits and symbols 5 times. Longer speech is cut.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str = "bosonai/higgs-audio-v2-generation-3B-base"
    revision: str | None = None
    codec: str | None = None
    codec_revision: str | None = None
    adapters: str | None = None
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d{1,2})?)$")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    decode: Literal["auto", "eager", "graph", "compile"] = "auto"
    max_batch: int = Field(default=8, ge=1, le=64)
    scene: str = Field(default="Audio is recorded from a quiet room.", max_length=2000)
    speakers: tuple[str, ...] = Field(default=(), max_length=10)
    temperature: float = Field(default=0.3, ge=0, le=5, allow_inf_nan=False)
    top_p: float = Field(default=0.95, gt=0, le=1)
    top_k: int = Field(default=50, ge=1)
    ras_window: int = Field(default=7, ge=0, le=64)
    ras_repeats: int = Field(default=2, ge=1)
    first_frames: int = Field(default=5, ge=1, le=250)
    chunk_frames: int = Field(default=25, ge=1, le=250)
    context_seconds: float = Field(default=15.0, ge=0, le=60)
    max_seconds_per_char: float = Field(default=0.2, ge=0.05, le=10)

    @field_validator("revision", "codec", "codec_revision", "adapters", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        """Treat an empty environment variable as unset."""
        return None if value == "" else value

    @field_validator("model", "codec", "adapters", "revision", "codec_revision")
    @classmethod
    def _is_printable(cls, value: str | None) -> str | None:
        if value is not None and (not value or not value.isprintable()):
            raise ValueError("give a name or a path of printable characters")
        return value

    @model_validator(mode="after")
    def _is_possible(self) -> "HiggsLocalSettings":
        if self.decode in ("graph", "compile") and self.device == "cpu":
            raise ValueError(f"decode {self.decode} needs a GPU; leave it at auto, or set device to cuda")
        return self
