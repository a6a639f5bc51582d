"""Map names of tensors and configuration values from boson_multimodal to transformers. Reads and writes no files.

"Native" is the format and the model of transformers.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import regex

from prosody_tagger.errors import BadInput

_PEFT = "base_model.model."
_BODY = regex.compile(r"(?:embed_tokens|norm|layers\.\d{1,4}\.(?:self_attn|mlp|audio_mlp|\w*layernorm))(?:\.|$)")
_CODES = "audio_codebook_embeddings"
_HEADS = "audio_decoder_proj."
_LORA_PART = regex.compile(r"\.lora_\w+(?:\.\w+)?$")

_DELAY_TOKEN = "<|reserved_special_token_6|>"
_END_TOKEN = "<|eot_id|>"

_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
# Defaults of Llama in transformers 4.46, for values that a configuration omits.
_LLAMA = {
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "bos_token_id": 1,
}
_LLAMA_THETA = 10_000.0

# Configuration options that the native model lacks, with their description for the message.
_IMPOSSIBLE = {
    "audio_embed_avg": "averages the embeddings of the codebooks",
    "use_audio_out_embed_projector": "projects the embeddings of the codes",
    "use_audio_out_self_attention": "has audio-to-audio attention (audio_attn)",
    "use_rq_transformer": "decodes codes with an RQ-Transformer",
    "audio_decoder_proj_num_layers": "has layers of its own before the audio head",
}

# Defaults of `HiggsAudioServeEngine`; old checkpoints do not contain them.
_SAMPLING = {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.95, "ras_win_len": 7, "ras_win_max_num_repeat": 2}


def native_name(old: str) -> str:
    """Return the native name of a tensor or module.

    Raises:
        BadInput: the native model has no such tensor.
    """
    if _BODY.match(old):
        return f"model.{old}"
    if old == _CODES or old.startswith(_CODES + "."):
        return "model.embed_audio_tokens.embed_audio_tokens" + old.removeprefix(_CODES)
    if old.startswith((_HEADS + "audio_lm_head", _HEADS + "text_lm_head")):
        return old.removeprefix(_HEADS)
    if old.startswith("model."):
        raise BadInput(f"{old} has a native name already; what is in the native form needs no conversion")
    raise BadInput(f"the native model has nothing like {old[:80]!r}; it cannot be converted, boson_server speaks with it as it is")


def native_tensor(old: str) -> str:
    """Return the native name of a tensor that PEFT saved.

    Raises:
        BadInput: the native model has no such tensor.
    """
    if not old.startswith(_PEFT):
        raise BadInput(f"the adapter holds {old[:80]!r}, which PEFT did not name; save it with PEFT's save_pretrained")
    return _PEFT + native_name(old.removeprefix(_PEFT))


def native_config(old: Mapping[str, Any], tokens: Mapping[str, int]) -> dict[str, Any]:
    """Return the native configuration.

    Args:
        old: configuration of a ``HiggsAudioModel``.
        tokens: ids of the tokenizer's special tokens.

    Raises:
        BadInput: it is no such configuration, or sets an option that the native model lacks.
    """
    _check_kind(old)
    text = _text_config(old)
    for key, what in _IMPOSSIBLE.items():
        if old.get(key):
            raise _impossible(key, old[key], what)
    if old.get("skip_audio_tower") is not True:
        raise _impossible("skip_audio_tower", old.get("skip_audio_tower"), "encodes audio with Whisper")
    if old.get("use_delay_pattern") is not True:
        raise _impossible("use_delay_pattern", old.get("use_delay_pattern"), "does not delay its codebooks")
    _check_layers(old, text["num_hidden_layers"])
    rope = text.get("rope_scaling") or {"rope_type": "default"}
    heads = text["num_attention_heads"]
    return {
        "architectures": ["HiggsAudioV2ForConditionalGeneration"],
        "model_type": "higgs_audio_v2",
        "dtype": old.get("torch_dtype") or text.get("torch_dtype") or "float32",
        **{name: text[name] for name in _SIZES},
        **{name: text.get(name, default) for name, default in _LLAMA.items()},
        "num_key_value_heads": text.get("num_key_value_heads") or heads,
        "head_dim": text.get("head_dim") or text["hidden_size"] // heads,
        "rope_parameters": {**rope, "rope_theta": text.get("rope_theta", _LLAMA_THETA)},
        "tie_word_embeddings": False,
        "num_codebooks": _whole(old, "audio_num_codebooks"),
        "codebook_size": _whole(old, "audio_codebook_size") + 2,  # plus BOS and EOS of the stream
        "audio_stream_bos_id": _whole(old, "audio_stream_bos_id"),
        "audio_stream_eos_id": _whole(old, "audio_stream_eos_id"),
        "audio_token_id": _agreed(old, "audio_out_token_idx", "<|AUDIO_OUT|>", tokens),
        "audio_bos_token_id": _agreed(old, "audio_out_bos_token_id", "<|audio_out_bos|>", tokens),
        "audio_delay_token_id": _token(_DELAY_TOKEN, tokens),
        "eos_token_id": _token(_END_TOKEN, tokens),
        "pad_token_id": old.get("pad_token_id"),
    }


def native_generation(old: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the native generation settings: those in ``old``, else the defaults of the old engine."""
    kept = {name: old.get(name, default) for name, default in _SAMPLING.items()}
    return {**kept, **{name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}}


def native_adapter_config(old: Mapping[str, Any], tensors: Iterable[str], base: str | None) -> dict[str, Any]:
    """Return PEFT's configuration of a converted adapter.

    Args:
        old: configuration of the adapter of the old model.
        tensors: the native names of its tensors.
        base: name of the native base model; None keeps the name in ``old``.

    Raises:
        BadInput: it is not LoRA, has no tensors, or contains a pattern that cannot be converted.
    """
    if old.get("peft_type") != "LORA":
        raise BadInput(f"the adapter is of the type {old.get('peft_type')!r}; only LORA can be converted")
    targets = sorted({_LORA_PART.sub("", name).removeprefix(_PEFT) for name in tensors if _LORA_PART.search(name)})
    if not targets:
        raise BadInput("the adapter holds no LoRA tensors; give a folder that PEFT's save_pretrained wrote")
    return {
        **old,
        "auto_mapping": {
            "base_model_class": "HiggsAudioV2ForConditionalGeneration",
            "parent_library": "transformers.models.higgs_audio_v2.modeling_higgs_audio_v2",
        },
        "base_model_name_or_path": base or old.get("base_model_name_or_path"),
        "revision": None,  # a revision of the checkpoint in the old format
        "target_modules": targets,
        # These selected among targets that are listed by full name now.
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "modules_to_save": [_native_suffix(name) for name in old.get("modules_to_save") or ()] or None,
        "trainable_token_indices": _native_keys(old.get("trainable_token_indices")),
        "rank_pattern": _native_keys(old.get("rank_pattern") or {}),
        "alpha_pattern": _native_keys(old.get("alpha_pattern") or {}),
    }


def _native_keys(old: Any) -> Any:
    return {_native_suffix(name): value for name, value in old.items()} if isinstance(old, dict) else old


def _native_suffix(old: str) -> str:
    """Return the native name of a module that PEFT may identify by the end of its name, such as ``audio_lm_head``."""
    if _CODES in old or _HEADS in old or old.startswith("layers."):
        return native_name(old)
    if old.startswith("^"):
        raise BadInput(
            f"the adapter's configuration says {old[:80]!r}, a pattern from the start of old names; spell out its modules"
        )
    return old


def _check_kind(old: Mapping[str, Any]) -> None:
    kind = old.get("model_type")
    if kind == "higgs_audio_v2":
        raise BadInput("the checkpoint is in the native form already; it can be loaded as it is")
    if kind is None and "semantic_techer" in old:
        raise BadInput("this is the config.json of a codec whose model.pth is missing; download it again")
    if kind != "higgs_audio":
        raise BadInput(f"config.json is of the type {kind!r}, not higgs_audio; give an old checkpoint of Higgs Audio v2")


def _text_config(old: Mapping[str, Any]) -> Mapping[str, Any]:
    text = old.get("text_config")
    if not isinstance(text, dict):
        raise BadInput("config.json has no text_config; download it again")
    if text.get("model_type", "llama") != "llama":
        raise _impossible("text_config.model_type", text["model_type"], "is built on something other than Llama")
    for name in _SIZES:
        if not _whole(text, name, "text_config."):
            raise BadInput(f"config.json gives 0 as text_config.{name}; download it again")
    return text


def _check_layers(old: Mapping[str, Any], layers: int) -> None:
    kind = old.get("audio_adapter_type")
    if kind not in ("dual_ffn", "dual_ffn_fast_forward"):
        raise _impossible("audio_adapter_type", kind, "has no second feed-forward network for audio")
    dual = old.get("audio_dual_ffn_layers")
    if not isinstance(dual, list) or sorted(map(str, dual)) != sorted(map(str, range(layers))):
        raise _impossible("audio_dual_ffn_layers", dual, f"has none in some of its {layers} layers")


def _impossible(key: str, value: object, what: str) -> BadInput:
    shown = repr(value)[:60]
    return BadInput(
        f"the checkpoint {what} ({key} is {shown}), which the native model cannot; boson_server speaks with it as it is"
    )


def _whole(config: Mapping[str, Any], name: str, where: str = "") -> int:
    value = config.get(name)
    if type(value) is not int or value < 0:
        raise BadInput(f"config.json gives {str(value)[:40]!r} as {where}{name}, which must be a whole number; download it again")
    return value


def _token(name: str, tokens: Mapping[str, int]) -> int:
    if name not in tokens:
        raise BadInput(f"tokenizer.json has no token {name}; put the checkpoint's own tokenizer beside it")
    return tokens[name]


def _agreed(old: Mapping[str, Any], key: str, name: str, tokens: Mapping[str, int]) -> int:
    """Return the id of a token, which configuration and tokenizer must agree on."""
    said, found = _whole(old, key), _token(name, tokens)
    if said != found:
        raise BadInput(
            f"{name} is {found} in tokenizer.json and {said} in config.json ({key}); put the checkpoint's own tokenizer beside it"
        )
    return found
