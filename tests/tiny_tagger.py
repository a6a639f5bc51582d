"""A tagger that takes a second to create: GPT-2's vocabulary and a network of two small layers."""

import json
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "models" / "gpt2-vocabulary" / "tokenizer.json"


def make_tagger(folder: Path, *, vocab: int = 50257, seed: int = 0) -> Path:
    """Write a base and an adapter with random weights to ``folder``; return the adapter's folder."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    from prosody_tagger.model import ADDED_TOKENS

    torch.manual_seed(seed)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=vocab, n_layer=2, n_head=2, n_embd=16, n_positions=128))
    base.save_pretrained(folder / "base")
    base.resize_token_embeddings(vocab + len(ADDED_TOKENS), mean_resizing=False)
    config = LoraConfig(
        r=4,
        target_modules=["c_attn", "c_proj", "c_fc"],
        fan_in_fan_out=True,
        init_lora_weights=False,
        trainable_token_indices=list(range(vocab, vocab + len(ADDED_TOKENS))),
        task_type="CAUSAL_LM",
    )
    network = get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "trainable_tokens" in name and weight.requires_grad:
                weight.normal_(0, 0.5)
    adapter = folder / "adapter"
    network.save_pretrained(adapter, save_embedding_layers=False)
    config_file = adapter / "adapter_config.json"
    named = json.loads(config_file.read_text()) | {"base_model_name_or_path": "../base"}
    config_file.write_text(json.dumps(named))
    shutil.copy(TOKENIZER, adapter)
    (adapter / "thresholds.json").write_text(json.dumps({"emph": {"low": 0.8, "medium": 0.6, "high": 0.4}, "pause": 0.5}))
    return adapter
