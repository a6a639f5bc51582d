"""The GPT-2 under an adapter: loaded, given our tokens, and wrapped in LoRA for training."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from prosody_tagger.errors import ModelError
from prosody_tagger.model import ADDED_TOKENS, SHIPPED, add_tokens, read_tokenizer

ROWS_FILE = "token-rows.safetensors"
"""Beside a base: the rows of our tokens as its training left them, for an adapter to start from."""
LORA_MODULES = ("c_attn", "c_proj", "c_fc")
"""Attention and MLP of GPT-2."""
GPT2_VOCABULARY = 50_257
GPT2_TOKENIZER = SHIPPED / "gpt2-vocabulary" / "tokenizer.json"
"""GPT-2's own, with our tokens."""
NEW_ROW_STD = 0.02


def load_base(source: str) -> tuple[Any, Tokenizer]:
    """A GPT-2 in 32 bit with rows for our tokens, and its tokenizer with those tokens.

    Args:
        source: a folder or a hub name. A folder without a tokenizer has GPT-2's own.

    Raises:
        ModelError: it cannot be loaded, or is no GPT-2.
    """
    import torch
    from transformers import AutoConfig, GPT2LMHeadModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    if (Path(source) / "adapter_config.json").exists():
        raise ModelError(f"{source!r} is an adapter and no base; give the folder or hub name of a GPT-2")
    try:
        kind = AutoConfig.from_pretrained(source).model_type
        if kind != "gpt2":
            raise ModelError(f"the base {source!r} is of the kind {kind!r}; give a GPT-2")
        network = GPT2LMHeadModel.from_pretrained(source, dtype=torch.float32)
        tokenizer = _tokenizer(source, network.config.vocab_size)
    except ModelError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"cannot load the base {source!r}: {reason}; give the folder or hub name of a GPT-2") from None
    add_rows(network, tokenizer, Path(source) / ROWS_FILE)
    return network, tokenizer


def add_rows(network: Any, tokenizer: Tokenizer, rows_file: Path) -> None:
    """Give the network rows for our tokens: those of ``rows_file`` if there is one, else near the mean of all rows."""
    import torch
    from safetensors.torch import load_file

    network.resize_token_embeddings(tokenizer.get_vocab_size(), mean_resizing=False)
    weight = network.transformer.wte.weight
    count = len(ADDED_TOKENS)
    rows = load_file(rows_file)["rows"] if rows_file.exists() else None
    if rows is None or rows.shape != weight[-count:].shape:
        rows = weight[:-count].mean(0) + NEW_ROW_STD * torch.randn(count, weight.shape[1])
    with torch.no_grad():
        weight[-count:] = rows


def with_lora(network: Any, *, r: int, alpha: float, dropout: float) -> Any:
    """The network under a LoRA adapter over attention and MLP, with the rows of our tokens to be trained."""
    from peft import LoraConfig, get_peft_model

    vocab = network.config.vocab_size
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(LORA_MODULES),
        fan_in_fan_out=True,
        trainable_token_indices=list(range(vocab - len(ADDED_TOKENS), vocab)),
        task_type="CAUSAL_LM",
    )
    with _without_future_warnings():
        return get_peft_model(network, config)


def base_name(base: str, output: Path) -> str:
    """How an adapter's folder names its base: a hub name, a folder beside it relative to it, another folder by its whole path."""
    folder = Path(base)
    if not folder.is_dir():
        return base
    beside = folder.resolve().parent == output.resolve().parent
    return Path(os.path.relpath(folder.resolve(), output.resolve())).as_posix() if beside else str(folder.resolve())


def save_adapter(network: Any, tokenizer: Tokenizer, base: str, output: Path) -> None:
    """Write the adapter and its tokenizer; ``base`` is as `base_name` has it."""
    config = network.peft_config["default"]
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # a set, whose order changes from run to run
    with _without_future_warnings():
        network.save_pretrained(output, save_embedding_layers=False)
    (output / "README.md").unlink(missing_ok=True)  # peft's empty form
    tokenizer.save(str(output / "tokenizer.json"), pretty=False)


@contextmanager
def _without_future_warnings() -> Iterator[None]:
    """peft asks transformers for an attribute by its old name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _tokenizer(source: str, vocab: int) -> Tokenizer:
    """The base's own tokenizer with our tokens, which, if it is GPT-2's kind, reads a text as if a space stood before it."""
    folder = Path(source)
    if folder.is_dir() and not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
        if vocab != GPT2_VOCABULARY:
            raise ModelError(f"the base {source!r} has no tokenizer.json, and its {vocab} tokens are not GPT-2's own; put it there")
        return read_tokenizer(GPT2_TOKENIZER)
    if (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    else:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(source).backend_tokenizer
    if tokenizer.get_vocab_size() != vocab:
        raise ModelError(f"the base {source!r} has {vocab} rows and its tokenizer {tokenizer.get_vocab_size()} tokens; mend it")
    if isinstance(tokenizer.model, models.BPE):
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.no_padding()
    tokenizer.no_truncation()
    add_tokens(tokenizer)
    return tokenizer
