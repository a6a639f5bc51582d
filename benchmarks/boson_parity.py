"""Record the outputs of boson_multimodal for a tiny model and codec.

`tests/synth/higgs_local/test_higgs_convert.py` compares the converted model with them.

It runs in an environment of its own (boson_server/requirements.txt), on a CPU:

    python benchmarks/boson_parity.py

The seed is chosen so that some greedy sequences end by themselves and others run to the limit. Weights and logits
go into tests/data/boson_parity.safetensors; configuration, tokenizer, prompts and codes into tests/data/boson_parity.json.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import boson_multimodal.audio_processing.higgs_audio_tokenizer as codec_module
import numpy as np
import torch
import transformers
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.utils import build_delay_pattern_mask
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import HubertConfig, HubertModel

DATA = Path(__file__).parents[1] / "tests" / "data"
CODEBOOKS, CODES = 8, 32
BOS, EOS = CODES, CODES + 1
LIMIT = 40
SHOWN = 8
SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|scene_desc_start|>",
    "<|scene_desc_end|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
    "<|audio_out_bos|>",
    "<|reserved_special_token_6|>",
    "<|AUDIO|>",
    "<|AUDIO_OUT|>",
)
TURN = "<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>"
OPENING = "<|begin_of_text|>" + TURN.format(role="system", text="Generate audio following instruction.")
ANSWER = "<|start_header_id|>assistant<|end_header_id|>\n\n<|audio_out_bos|>"
RECORDING = "<|start_header_id|>assistant<|end_header_id|>\n\n<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|><|eot_id|>"


CODEC = {
    "n_filters": 32,
    "D": 16,
    "codebook_dim": 16,
    "target_bandwidths": [0.5, 1, 1.5, 2, 4],
    "ratios": [8, 5, 4, 2, 3],
    "sample_rate": 24000,
    "bins": 64,
    "n_q": 8,
    "semantic_techer": "hubert_base_general",
}
HUBERT = {
    "num_hidden_layers": 1,
    "intermediate_size": 32,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 8,
}


def filled(name: str, shape: list[int]) -> torch.Tensor:
    """Return a tensor computed from its name, so that the record need not contain it. The test does the same."""
    numbers = np.random.RandomState(zlib.crc32(name.encode())).random_sample(4093) - 0.5
    values = torch.from_numpy(np.resize(numbers, int(np.prod(shape))).reshape(shape).astype(np.float32))
    if name.endswith("embed"):
        return values
    if name.endswith(("alpha", "weight_g", "norm.weight", "original0")):
        return 1.0 + 0.2 * values
    return torch.ones_like(values) if name.endswith("inited") else 0.2 * values


def codec() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return what an old codec with narrow convolutions encodes and decodes."""
    encoder, decoder = codec_module.dac2.Encoder, codec_module.dac2.Decoder
    codec_module.dac2.Encoder = lambda width, ratios, size: encoder(2, ratios, size)
    codec_module.dac2.Decoder = lambda size, width, ratios: decoder(size, 32, ratios)
    codec_module.AutoModel.from_pretrained = lambda *_, **__: HubertModel(HubertConfig(**HUBERT))
    made = codec_module.HiggsAudioTokenizer(**CODEC, device="cpu").eval()
    shapes = {name: list(tensor.shape) for name, tensor in made.state_dict().items()}
    made.load_state_dict({name: filled(name, shape) for name, shape in shapes.items()})
    codes = torch.arange(8 * 6).reshape(1, 8, 6) * 37 % CODEC["bins"]
    sound = filled("sound", [19_200]).numpy()
    heard = made.encode(sound, CODEC["sample_rate"])
    # In float64, because rounding in float32 differs between processors by more than the test accepts.
    said = torch.from_numpy(made.double().decode(codes)[0, 0])
    return {"codec.said": said}, {"config": CODEC, "shapes": shapes, "codes": codes[0].tolist(), "heard": heard.tolist()}


def tokenizer() -> Tokenizer:
    """Return a tokenizer of bytes and special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: id for id, letter in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(SPECIALS))
    return made


def config(made: Tokenizer, layers: int = 3) -> HiggsAudioConfig:
    token = made.token_to_id
    return HiggsAudioConfig(
        text_config={
            "vocab_size": made.get_vocab_size(),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            # The scaling of the real checkpoint, but for a context so short that a prompt reaches beyond it.
            "rope_scaling": {
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 64,
                "rope_type": "llama3",
            },
            "bos_token_id": token("<|begin_of_text|>"),
            "eos_token_id": token("<|end_of_text|>"),
        },
        audio_adapter_type="dual_ffn_fast_forward",
        audio_dual_ffn_layers=list(range(layers)),
        audio_ffn_hidden_size=32,
        audio_ffn_intermediate_size=48,
        encode_whisper_embed=False,
        encode_audio_in_tokens=True,
        skip_audio_tower=True,
        use_delay_pattern=True,
        audio_num_codebooks=CODEBOOKS,
        audio_codebook_size=CODES,
        audio_stream_bos_id=BOS,
        audio_stream_eos_id=EOS,
        audio_in_token_idx=token("<|AUDIO|>"),
        audio_out_token_idx=token("<|AUDIO_OUT|>"),
        audio_out_bos_token_id=token("<|audio_out_bos|>"),
        audio_eos_token_id=token("<|audio_eos|>"),
        pad_token_id=token("<|end_of_text|>"),
    )


def model(settings: HiggsAudioConfig, seed: int) -> HiggsAudioModel:
    """Return a model with weights so large that every frame depends on the ones before it."""
    torch.manual_seed(seed)
    made = HiggsAudioModel(settings).eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.1 if name.endswith("norm.weight") else 0.25)
        head = made.audio_decoder_proj.audio_lm_head.weight.view(CODEBOOKS, CODES + 2, -1)
        head[:, BOS] = 0.0  # a trained model does not choose these itself
        head[1:, EOS] = 0.0
    return made


def recording(frames: int) -> torch.Tensor:
    """Return random codes of a recording, with BOS and EOS, in the delay pattern: [codebooks, frames + codebooks + 1]."""
    codes = torch.randint(CODES, (CODEBOOKS, frames))
    edge = torch.ones(CODEBOOKS, 1, dtype=torch.long)
    whole = torch.cat([edge * BOS, codes, edge * EOS], dim=1)
    return build_delay_pattern_mask(whole[None], bos_token_id=BOS, pad_token_id=EOS)[0][0]


def prompts(made: Tokenizer) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Return ids [1, length], with one <|AUDIO_OUT|> for a recording, and the recording's delayed codes."""

    def ids(text: str) -> torch.Tensor:
        return torch.tensor([made.encode(text, add_special_tokens=False).ids])

    torch.manual_seed(1)
    texts = ["Hello.", "Only $299 today, and no more.", "It was only yesterday that we said no."]
    plain = [(ids(OPENING + TURN.format(role="user", text=text) + ANSWER), None) for text in texts]
    before = OPENING + TURN.format(role="user", text="How it sounds.") + RECORDING
    cloned = [
        (ids(before + TURN.format(role="user", text=text) + ANSWER), recording(frames)) for frames, text in enumerate(texts, 9)
    ]
    return plain + cloned


def greedy(made: HiggsAudioModel, ids: torch.Tensor, codes: torch.Tensor | None) -> torch.Tensor:
    """Return the frames that follow a prompt, greedily decoded: [codebooks, frames]."""
    return made.generate(input_ids=ids, max_new_tokens=LIMIT, use_cache=True, do_sample=False, **known(ids, codes))[1][-1]


def known(ids: torch.Tensor, codes: torch.Tensor | None) -> dict[str, Any]:
    if codes is None:
        return {"attention_mask": torch.ones_like(ids)}
    return {"attention_mask": torch.ones_like(ids), "audio_out_ids": codes, "audio_out_ids_start": torch.tensor([0])}


def main() -> None:
    made = tokenizer()
    settings = config(made)
    for seed in range(1000):
        candidate = model(settings, seed)
        answers = [greedy(candidate, ids, codes) for ids, codes in prompts(made)]
        ended = [answer.shape[1] < LIMIT for answer in answers]
        if 2 <= sum(ended) <= 4 and any(ended[:3]) and any(ended[3:]) and min(a.shape[1] for a in answers) > CODEBOOKS + 4:
            break
    else:
        raise SystemExit("no seed gives sequences of both kinds")
    record(made, candidate, answers, seed)


def record(made: Tokenizer, chosen: HiggsAudioModel, answers: list[torch.Tensor], seed: int) -> None:
    tensors = {f"model.{name}": weight.detach().contiguous() for name, weight in chosen.state_dict().items()}
    cases = []
    for number, ((ids, codes), answer) in enumerate(zip(prompts(made), answers, strict=True)):
        # One forward pass over the prompt and the frames that followed.
        shown = answer[:, :SHOWN]
        whole = torch.cat([ids, torch.tensor([[chosen.config.audio_out_token_idx]])], dim=1)
        audio = shown if codes is None else torch.cat([codes, shown], dim=1)
        starts = torch.tensor([0] if codes is None else [0, codes.shape[1]])
        inputs = {
            "input_ids": whole,
            "attention_mask": torch.ones_like(whole),
            "audio_out_ids": audio,
            "audio_out_ids_start": starts,
        }
        with torch.no_grad():
            out = chosen(**inputs, use_cache=True)
        before = out.logits.shape[1] - SHOWN  # length of the prompt with one position per frame of its recording
        tensors[f"case{number}.audio_logits"] = out.audio_logits.reshape(audio.shape[1], -1)[-SHOWN:].contiguous()
        tensors[f"case{number}.text_logits"] = out.logits[0, before - 8 : before].contiguous()
        cases.append(
            {
                "ids": ids[0].tolist(),
                "recording": None if codes is None else codes.T.tolist(),
                "frames": answer.T.tolist(),
                "ended": answer.shape[1] < LIMIT,
            }
        )
    sound, heard = codec()
    DATA.mkdir(exist_ok=True)
    save_file(tensors | sound, DATA / "boson_parity.safetensors")
    chosen.config.torch_dtype = "float32"
    chosen.config.architectures = ["HiggsAudioModel"]
    recorded = {
        "made_with": {
            "boson-multimodal": "0.1.1",
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "seed": seed,
        },
        "limit": LIMIT,
        "config": json.loads(chosen.config.to_json_string(use_diff=False)),
        "tokenizer": json.loads(made.to_str()),
        "cases": cases,
        "codec": heard,
    }
    (DATA / "boson_parity.json").write_text(json.dumps(recorded, separators=(",", ":")) + "\n")
    for case in cases:
        after = "a recording" if case["recording"] else "text alone"
        print(f"{len(case['frames'])} frames after {after}, {'ended' if case['ended'] else 'cut at the limit'}")


if __name__ == "__main__":
    main()
