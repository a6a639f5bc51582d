"""Convert the codec of boson_multimodal to the format of transformers.

The old codec is a pickled file. Its convolutions store length and direction of their weights separately (weight normalisation,
https://arxiv.org/abs/1602.07868), while the new format stores the weights themselves. So its tensors are loaded and computed.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import regex

from prosody_tagger.errors import BadInput

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.pth"
"""Name of the file with its tensors."""

_POSITION = "semantic_model.encoder.pos_conv_embed.conv."

_TEACHERS = ("hubert_base", "hubert_base_general")
_UNIT = ("snake1", "conv1", "snake2", "conv2")
_ENCODER_BLOCK = ("res_unit1", "res_unit2", "res_unit3", "snake1", "conv1")
_DECODER_BLOCK = ("snake1", "conv_t1", "res_unit1", "res_unit2", "res_unit3")
_DAC = regex.compile(r"(?:encoder\.block|decoder_2\.model)\.(?P<at>\d{1,2})\.(?P<rest>.+)")
_PART = regex.compile(r"block\.(?P<part>[0-4])\.(?:block\.(?P<inner>[0-3])\.)?(?P<rest>[^.]+)")
_RENAMED = (("fc_prior.", "fc."), ("fc_post1.", "fc1."), ("fc_post2.", "fc2."), ("quantizer.vq.layers.", "quantizer.quantizers."))


def read_tensors(path: Path) -> "dict[str, torch.Tensor]":
    """Load a file of pickled tensors, without executing code in it.

    Raises:
        BadInput: the file cannot be read, or holds something else.
    """
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the pickle and zip readers raise errors of many types
        raise BadInput(f"{path} holds no tensors ({type(error).__name__}); download it again") from None
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise BadInput(f"{path} holds something other than named tensors; download it again")
    return found


def native_codec(old: Mapping[str, Any], tensors: "Mapping[str, torch.Tensor]") -> "tuple[dict[str, Any], dict[str, torch.Tensor]]":
    """Return the configuration and the tensors in the new format.

    Args:
        old: the codec's config.json.
        tensors: the tensors of the old file, by name.

    Raises:
        BadInput: the codec is of another type, or incomplete.
    """
    if old.get("semantic_techer") not in _TEACHERS:
        raise BadInput(f"the codec's semantic_techer is {old.get('semantic_techer')!r}, and only HuBERT can be converted")
    ratios = old.get("ratios")
    if not isinstance(ratios, list) or not ratios or not all(type(ratio) is int and ratio > 0 for ratio in ratios):
        raise BadInput(f"config.json gives {str(ratios)[:40]!r} as ratios, which must be whole numbers above 0; download it again")
    try:
        config = _config(old, ratios, tensors)
        found = {
            _name(name, len(ratios)): tensor
            for name, tensor in _without_weight_norm(tensors).items()
            if name != "semantic_model.masked_spec_embed"
        }
    except (KeyError, TypeError, AttributeError, IndexError, StopIteration, ZeroDivisionError) as error:
        raise BadInput(f"the codec lacks {str(error)[:80]}, or has it in another form; download it again") from None
    _check(config, found)
    return config, found


def _config(old: Mapping[str, Any], ratios: list[int], tensors: "Mapping[str, torch.Tensor]") -> dict[str, Any]:
    if not isinstance(old["bins"], int):
        raise BadInput("the codec quantises scalars (RFSQ), and transformers supports only codebooks; it cannot be converted")
    rate, hop = old["sample_rate"], math.prod(ratios)
    bits = (old["bins"] - 1).bit_length()
    return {
        "architectures": ["HiggsAudioV2TokenizerModel"],
        "model_type": "higgs_audio_v2_tokenizer",
        "dtype": "float32",
        "sample_rate": rate,
        "codebook_size": old["bins"],
        "codebook_dim": old["codebook_dim"],
        # In kbit/s; transformers derives the number of codebooks from the largest.
        "target_bandwidths": [count * -(-rate // hop) * bits / 1000 for count in range(1, old["n_q"] + 1)],
        "acoustic_model_config": {
            "model_type": "dac",
            "encoder_hidden_size": len(tensors["encoder.block.0.bias"]),
            "decoder_hidden_size": len(tensors["decoder_2.model.0.bias"]),
            "downsampling_ratios": ratios,
            "upsampling_ratios": ratios,
            "hidden_size": old["D"],
        },
        "semantic_model_config": _hubert(tensors),
    }


def _hubert(tensors: "Mapping[str, torch.Tensor]") -> dict[str, Any]:
    """Return the configuration of the semantic model: HuBERT base, with the sizes of its tensors."""
    layer = "semantic_model.encoder.layers.{}.layer_norm.weight"
    convolution = "semantic_model.feature_extractor.conv_layers.{}.conv.weight"
    position = next(tensor for name, tensor in tensors.items() if name.startswith(_POSITION) and name.endswith(("_v", "original1")))
    return {
        "model_type": "hubert",
        "hidden_size": position.shape[0],
        "intermediate_size": len(tensors["semantic_model.encoder.layers.0.feed_forward.intermediate_dense.bias"]),
        "num_hidden_layers": _count(layer, tensors),
        "conv_dim": [len(tensors[convolution.format(at)]) for at in range(_count(convolution, tensors))],
        "num_conv_pos_embeddings": position.shape[2],
        "num_conv_pos_embedding_groups": position.shape[0] // position.shape[1],
        "mask_time_prob": 0.0,
    }


def _without_weight_norm(tensors: "Mapping[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """Return the tensors with weight normalisation removed, except in the semantic model, where the new format keeps it."""
    import torch

    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(_POSITION):
            renamed = name.replace("weight_g", "parametrizations.weight.original0").replace(
                "weight_v", "parametrizations.weight.original1"
            )
            found[renamed] = tensor
        elif name.endswith(".weight_v"):
            length = tensors[name.removesuffix("v") + "g"]
            found[name.removesuffix("_v")] = torch._weight_norm(tensor, length, 0)
        elif not name.endswith(".weight_g"):
            found[name] = tensor
    return found


def _name(old: str, blocks: int) -> str:
    """Return the new name of a tensor; ``blocks`` is the number of blocks in encoder and in decoder."""
    if found := _DAC.fullmatch(old):
        encodes = old.startswith("encoder.")
        side = "acoustic_encoder" if encodes else "acoustic_decoder"
        at = int(found["at"])
        outside = {0: "conv1", blocks + 1: "snake1", blocks + 2: "conv2"}.get(at)
        if outside:
            return f"{side}.{outside}.{found['rest']}"
        part = _PART.fullmatch(found["rest"])
        if part is None:
            return old
        name = (_ENCODER_BLOCK if encodes else _DECODER_BLOCK)[int(part["part"])]
        inner = f".{_UNIT[int(part['inner'])]}" if part["inner"] else ""
        return f"{side}.block.{at - 1}.{name}{inner}.{part['rest']}"
    if old.startswith(("encoder_semantic.", "decoder_semantic.")):
        return regex.sub(r"(conv\d?)\.conv\.(weight|bias)$", r"\1.\2", old)
    for before, after in _RENAMED:
        if old.startswith(before):
            return after + old.removeprefix(before).replace("._codebook.", ".codebook.")
    return old


def _check(config: Mapping[str, Any], found: "Mapping[str, torch.Tensor]") -> None:
    """Check that the codec that transformers builds from ``config`` has exactly these tensors.

    Raises:
        BadInput: a tensor is missing, unknown or of another shape.
    """
    import torch

    from synth.higgs_local.codec_model import codec_class

    kind = codec_class()
    try:
        with torch.device("meta"):
            model = kind(kind.config_class(**config))
    except Exception as error:  # transformers raises errors of many types for invalid numbers
        raise BadInput(
            f"the codec's config.json describes none that can be built ({type(error).__name__}); download it again"
        ) from None
    wanted = model.state_dict()
    for name in sorted(wanted.keys() | found.keys()):
        have, want = (list(side[name].shape) if name in side else "nothing" for side in (found, wanted))
        if have != want:
            raise BadInput(f"the codec has {have} as {name}, where {want} belongs; download config.json and {WEIGHTS} again")


def _count(name: str, tensors: "Mapping[str, torch.Tensor]") -> int:
    count = 0
    while name.format(count) in tensors:
        count += 1
    return count
