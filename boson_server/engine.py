"""``HiggsAudioServeEngine`` of boson_multimodal, which can be stopped and hands over its sound while it makes it.

Its own ``generate`` does neither: nothing stops it, and the sound comes at the end. So its parts are used here as it uses them
itself, with a streamer that sees every frame and a criterion that is asked after each.
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

from .request import Order

SCENE = "Generate audio following instruction.\n\n<|scene_desc_start|>\nAudio is recorded from a quiet room.\n<|scene_desc_end|>"
WINDOW = 25
"""Frames of streamed sound that are handed over at a time: 1 s."""
LONG_WINDOW = 250
"""The same once all frames are there, so that the codec's memory stays bounded."""
OVERLAP = 12
"""Frames on either side that the codec hears without their sound being used; beyond about ten, none changes a sample."""

Hand = Callable[[np.ndarray], None]


class BosonEngine:
    """Args:
    model: folder or hub name of a checkpoint of the old form.
    codec: folder or hub name of the codec that goes with it.
    device: cuda or cpu.
    """

    def __init__(self, model: str, codec: str, device: str) -> None:
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        self._engine = HiggsAudioServeEngine(model, codec, device=device, torch_dtype=dtype)
        self.rate = int(self._engine.audio_tokenizer.sampling_rate)

    def speak(self, order: Order, stopped: Callable[[], bool], hand: Hand) -> None:
        engine = self._engine
        with torch.no_grad():
            inputs = engine._prepare_inputs(_dialogue(order), force_audio_gen=True)
            engine._prepare_kv_caches()
            sound = _Sound(engine, hand if order.stream else None, stopped)
            engine.model.generate(
                **inputs,
                max_new_tokens=order.frames,
                use_cache=True,
                do_sample=order.temperature > 0.0,
                temperature=order.temperature or None,
                top_k=order.top_k,
                top_p=order.top_p,
                past_key_values_buckets=engine.kv_caches,
                ras_win_len=7,
                ras_win_max_num_repeat=2,
                seed=order.seed,
                streamer=sound,
                stopping_criteria=StoppingCriteriaList([_Stop(sound, stopped)]),
            )
            sound.finish(hand)


def _dialogue(order: Order) -> ChatMLSample:
    messages = [Message(role="system", content=SCENE)]
    if order.recording is not None:
        audio = AudioContent(audio_url="placeholder", raw_audio=base64.b64encode(order.recording.audio).decode())
        messages += [Message(role="user", content=order.recording.text), Message(role="assistant", content=audio)]
    return ChatMLSample(messages=[*messages, Message(role="user", content=order.text)])


class _Sound(BaseStreamer):
    """Takes every frame as it is chosen, and turns them into sound."""

    def __init__(self, engine: Any, hand: Hand | None, stopped: Callable[[], bool]) -> None:
        self._engine = engine
        self._hand = hand
        self._stopped = stopped
        self._frames: list[torch.Tensor] = []
        self._handed = 0  # undelayed frames whose sound has been handed over
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        """A frame [codebooks], or a token of text: before the first frame the prompt's, after it the end of the sound."""
        if value.shape != (self._engine.audio_num_codebooks,):
            self.ended = bool(self._frames)
            return
        self._frames.append(value)
        ready = len(self._frames) - self._engine.audio_num_codebooks - 1  # the newest whole frame may be the end
        if self._hand is not None and ready >= self._handed + WINDOW + OVERLAP and not self._stopped():
            self._window(self._hand, self._handed + WINDOW, last=False)

    def end(self) -> None:
        self.ended = True

    def finish(self, hand: Hand) -> None:
        """Hand over the sound of all frames that are left."""
        whole = self._codes().shape[1]
        while self._handed < whole and not self._stopped():
            end = min(self._handed + LONG_WINDOW, whole)
            self._window(hand, end, last=end == whole)

    def _codes(self) -> torch.Tensor:
        """What was chosen so far, undelayed and without begin and end: [codebooks, frames]."""
        delayed = torch.stack(self._frames, dim=1) if self._frames else torch.zeros(1, 0, dtype=torch.long)
        if delayed.shape[1] < self._engine.audio_num_codebooks + 2:
            return delayed[:, :0]
        return revert_delay_pattern(delayed).clip(0, self._engine.audio_codebook_size - 1)[:, 1:-1]

    def _window(self, hand: Hand, end: int, *, last: bool) -> None:
        """Hand over the sound of the frames up to ``end``."""
        begin = max(0, self._handed - OVERLAP)
        codes = self._codes()[:, begin : end if last else end + OVERLAP]
        samples = np.asarray(self._engine.audio_tokenizer.decode(codes.unsqueeze(0))[0, 0], dtype=np.float32)
        length = self._engine.samples_per_token
        hand(samples[(self._handed - begin) * length : (end - begin) * length])
        self._handed = end


class _Stop(StoppingCriteria):
    """At the end of the sound (the model would go on with text), or when nobody listens any more."""

    def __init__(self, sound: _Sound, stopped: Callable[[], bool]) -> None:
        self._sound = sound
        self._stopped = stopped
        self._end = sound._engine.model.audio_eos_token_id

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        over = self._stopped() or self._sound.ended or int(input_ids[0, -1]) == self._end
        return torch.full((input_ids.shape[0],), over, dtype=torch.bool, device=input_ids.device)
