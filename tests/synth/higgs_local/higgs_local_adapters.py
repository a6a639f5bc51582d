"""Make a random Higgs model of two small layers, without tokenizer or codec, and adapters for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from synth.higgs_local.base_model import describe_model
from synth.higgs_local.prosody_file import TrainedMark, write_prosody

TARGETS = r".*\.layers\.\d+\.(self_attn\.[qkvo]_proj|audio_mlp\.(gate|up|down)_proj)"
VOCABULARY = 300
MARKS = {"emph": TrainedMark("<|reserved_special_token_1|>", 280), "pause_short": TrainedMark("<|reserved_special_token_2|>", 281)}


def make_model(seed: int = 0, *, text_head: bool = False, **sizes: int) -> Any:
    from transformers import HiggsAudioV2Config, HiggsAudioV2ForConditionalGeneration

    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = HiggsAudioV2Config(
        vocab_size=VOCABULARY,
        codebook_size=1026,
        pad_token_id=290,
        bos_token_id=291,
        eos_token_id=292,
        audio_token_id=293,
        audio_bos_token_id=294,
        audio_delay_token_id=295,
        **(shape | sizes),
    )
    return HiggsAudioV2ForConditionalGeneration(config, use_text_head=text_head).eval()


def save_adapter(model: Any, folder: Path, *, seed: int = 1, rows: tuple[int, ...] = (), **lora: Any) -> Path:
    """Save a random adapter for ``model`` with PEFT; the model stays unchanged."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    trained: dict[str, Any] = {"trainable_token_indices": {"embed_tokens": list(rows)}} if rows else {}
    wrapped = get_peft_model(model, LoraConfig(**({"r": 4, "lora_alpha": 8, "target_modules": TARGETS} | trained | lora)))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name or ("trainable_tokens" in name and weight.requires_grad):
                weight.normal_(0, 0.3)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    wrapped.unload()
    return folder


def save_trained(model: Any, folder: Path, marks: Mapping[str, TrainedMark] = MARKS, *, seed: int = 1, name: str = "tiny") -> Path:
    """Save a random adapter with its ``prosody.json``, as the trainer does."""
    save_adapter(model, folder, seed=seed, rows=tuple(mark.id for mark in marks.values()))
    write_prosody(folder, describe_model(model, name).base, marks)
    return folder


def scores(model: Any) -> torch.Tensor:
    """Return the logits of a prompt with text, two marks and audio."""
    ids = torch.tensor([[291, 5, 280, 7, 281, 9, 294, 293, 293, 293]])
    frames = torch.arange(24).reshape(1, 3, 8) * 7
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids, audio_input_ids=frames, attention_mask=torch.ones_like(ids)).logits
    return logits
