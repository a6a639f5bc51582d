"""A tiny Higgs Audio v2: tokenizer, codec and model with seeded random weights."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    DacConfig,
    HiggsAudioV2Config,
    HiggsAudioV2ForConditionalGeneration,
    HiggsAudioV2TokenizerConfig,
    HubertConfig,
    PreTrainedTokenizerFast,
)

from synth.higgs_local.codec_model import codec_class

CONTROL = (
    "<|begin_of_text|> <|end_of_text|> <|eot_id|> <|start_header_id|> <|end_header_id|> <|scene_desc_start|> <|scene_desc_end|> "
    "<|audio_bos|> <|audio_eos|> <|audio_out_bos|> <|reserved_special_token_6|> <|AUDIO|> <|AUDIO_OUT|>"
).split()
MARK_TOKENS = [f"<|reserved_special_token_{number}|>" for number in range(10, 17)]
"""Unused reserved tokens, for marks."""


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte, and the control tokens of Higgs."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*CONTROL, *MARK_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", pad_token="<|end_of_text|>"
    )


def tiny_config(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> HiggsAudioV2Config:
    token = tokenizer.convert_tokens_to_ids
    values = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "codebook_size": 1026,  # the codes, BOS and EOS
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "audio_token_id": token("<|AUDIO_OUT|>"),
        "audio_bos_token_id": token("<|audio_out_bos|>"),
        "audio_delay_token_id": token("<|reserved_special_token_6|>"),
    }
    return HiggsAudioV2Config(**{**values, **changes})


def tiny_model(seed: int = 0, *, text_head: bool = False, **changes: Any) -> HiggsAudioV2ForConditionalGeneration:
    """Return a random model that never generates EOS; see `ending`."""
    torch.manual_seed(seed)
    model = HiggsAudioV2ForConditionalGeneration(tiny_config(tiny_tokenizer(), **changes), use_text_head=text_head).eval()
    with torch.no_grad():
        rows_of_eos(model).zero_()
    return model


def ending(
    model: HiggsAudioV2ForConditionalGeneration, strength: float = 3.0, book: int = 0
) -> HiggsAudioV2ForConditionalGeneration:
    """Make codebook ``book`` of ``model`` generate EOS, more often for greater ``strength``; return the model."""
    with torch.no_grad():
        rows_of_eos(model)[book].normal_(0, model.config.initializer_range * strength)
    return model


def rows_of_eos(model: HiggsAudioV2ForConditionalGeneration) -> torch.Tensor:
    """Return a view of the row of each codebook's EOS in the output layer."""
    config = model.config
    return model.audio_lm_head.weight.view(config.num_codebooks, config.codebook_size, -1)[:, config.audio_stream_eos_id]


def tiny_codec(seed: int = 0) -> Any:
    """Return a codec of 25 frames per second with random codebooks instead of the initial zeros."""
    strides = [8, 5, 4, 2, 3]
    config = HiggsAudioV2TokenizerConfig(
        target_bandwidths=[0.5, 1, 1.5, 2],  # the last gives 8 codebooks of 10 bits
        sample_rate=24_000,
        codebook_size=1024,
        codebook_dim=16,
        acoustic_model_config=DacConfig(
            encoder_hidden_size=8,
            downsampling_ratios=strides,
            decoder_hidden_size=64,
            upsampling_ratios=strides,
            hidden_size=16,
            n_codebooks=8,
            codebook_size=1024,
            codebook_dim=8,
        ),
        semantic_model_config=HubertConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            conv_dim=[16] * 7,
            mask_time_prob=0.0,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
        ),
    )
    torch.manual_seed(seed)
    codec = codec_class()(config).eval()
    for quantizer in codec.quantizer.quantizers:
        quantizer.codebook.embed.copy_(torch.randn_like(quantizer.codebook.embed))
    return codec


def save_checkpoint(folder: Path, *, seed: int = 0, model: HiggsAudioV2ForConditionalGeneration | None = None) -> Path:
    """Save model and tokenizer to ``folder``, and the codec to its subfolder ``codec``."""
    (model or tiny_model(seed)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    tiny_codec(seed).save_pretrained(folder / "codec")
    return folder
