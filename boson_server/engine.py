"""``HiggsAudioServeEngine`` of boson_multimodal, with cancellation and streaming.

Its own ``generate`` cannot be cancelled and returns the audio at the end. This module calls the engine's parts as ``generate``
does, with a streamer that receives every frame and a stopping criterion that is evaluated after each.
"""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from boson_multimodal.data_types import AudioContent, ChatMLSample, Message
from boson_multimodal.model.higgs_audio.utils import revert_delay_pattern
from boson_multimodal.serve.serve_engine import HiggsAudioServeEngine
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from .request import SpeechJob

SCENE = "Generate audio following instruction.\n\n<|scene_desc_start|>\nAudio is recorded from a quiet room.\n<|scene_desc_end|>"
WINDOW = 25
"""Frames of audio in a streamed chunk: 1 s."""
LONG_WINDOW = 250
"""Frames in a chunk once generation has ended; bounds the codec's memory."""
OVERLAP = 12
"""Frames of context on either side of a decoded chunk; the codec's receptive field is about ten frames."""

PutAudio = Callable[[np.ndarray], None]


class BosonEngine:
    """Runs ``HiggsAudioServeEngine``. Not thread-safe.

    Args:
        model: folder or hub name of a checkpoint in the old format.
        codec: folder or hub name of its codec.
        device: cuda (bfloat16) or cpu (float32).
    """

    def __init__(self, model: str, codec: str, device: str) -> None:
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        self._engine = HiggsAudioServeEngine(model, codec, device=device, torch_dtype=dtype)
        self.rate = int(self._engine.audio_tokenizer.sampling_rate)

    def speak(self, job: SpeechJob, cancelled: Callable[[], bool], put: PutAudio) -> None:
        """Generate the audio of a job; see `boson_server.worker.SpeechEngine`."""
        engine = self._engine
        with torch.no_grad():
            inputs = engine._prepare_inputs(_dialogue(job), force_audio_gen=True)
            engine._prepare_kv_caches()
            audio = _AudioStreamer(engine, put if job.stream else None, cancelled)
            engine.model.generate(
                **inputs,
                max_new_tokens=job.frames,
                use_cache=True,
                do_sample=job.temperature > 0.0,
                temperature=job.temperature or None,
                top_k=job.top_k,
                top_p=job.top_p,
                past_key_values_buckets=engine.kv_caches,
                ras_win_len=7,
                ras_win_max_num_repeat=2,
                seed=job.seed,
                streamer=audio,
                stopping_criteria=StoppingCriteriaList([_StopWhenDone(audio, cancelled)]),
            )
            audio.finish(put)


def _dialogue(job: SpeechJob) -> ChatMLSample:
    messages = [Message(role="system", content=SCENE)]
    if job.recording is not None:
        audio = AudioContent(audio_url="placeholder", raw_audio=base64.b64encode(job.recording.audio).decode())
        messages += [Message(role="user", content=job.recording.text), Message(role="assistant", content=audio)]
    return ChatMLSample(messages=[*messages, Message(role="user", content=job.text)])


class _AudioStreamer(BaseStreamer):
    """Receives every frame as it is generated, and decodes the frames to audio."""

    def __init__(self, engine: Any, put: PutAudio | None, cancelled: Callable[[], bool]) -> None:
        self._engine = engine
        self._put = put
        self._cancelled = cancelled
        self._frames: list[torch.Tensor] = []
        self._done = 0  # frames, without delay, whose audio has been put
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        """Receive a frame [codebooks] or text tokens: the prompt before the first frame, the end of the audio after it."""
        if value.shape != (self._engine.audio_num_codebooks,):
            self.ended = bool(self._frames)
            return
        self._frames.append(value)
        ready = len(self._frames) - self._engine.audio_num_codebooks - 1  # the last complete frame may be the EOS
        if self._put is not None and ready >= self._done + WINDOW + OVERLAP and not self._cancelled():
            self._decode(self._put, self._done + WINDOW, last=False)

    def end(self) -> None:
        self.ended = True

    def finish(self, put: PutAudio) -> None:
        """Put the audio of all remaining frames."""
        complete = self._codes().shape[1]
        while self._done < complete and not self._cancelled():
            end = min(self._done + LONG_WINDOW, complete)
            self._decode(put, end, last=end == complete)

    def _codes(self) -> torch.Tensor:
        """Return the frames so far, without delay, BOS and EOS: [codebooks, frames]."""
        delayed = torch.stack(self._frames, dim=1) if self._frames else torch.zeros(1, 0, dtype=torch.long)
        if delayed.shape[1] < self._engine.audio_num_codebooks + 2:
            return delayed[:, :0]
        return revert_delay_pattern(delayed).clip(0, self._engine.audio_codebook_size - 1)[:, 1:-1]

    def _decode(self, put: PutAudio, end: int, *, last: bool) -> None:
        """Decode the frames up to ``end`` and put their audio."""
        begin = max(0, self._done - OVERLAP)
        codes = self._codes()[:, begin : end if last else end + OVERLAP]
        samples = np.asarray(self._engine.audio_tokenizer.decode(codes.unsqueeze(0))[0, 0], dtype=np.float32)
        length = self._engine.samples_per_token
        put(samples[(self._done - begin) * length : (end - begin) * length])
        self._done = end


class _StopWhenDone(StoppingCriteria):
    """Stops generation at the end of the audio, where the model would continue with text, or when the job is cancelled."""

    def __init__(self, audio: _AudioStreamer, cancelled: Callable[[], bool]) -> None:
        self._audio = audio
        self._cancelled = cancelled
        self._end = audio._engine.model.audio_eos_token_id

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        done = self._cancelled() or self._audio.ended or int(input_ids[0, -1]) == self._end
        return torch.full((input_ids.shape[0],), done, dtype=torch.bool, device=input_ids.device)
