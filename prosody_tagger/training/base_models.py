"""The GPT-2 under an adapter: load it, add our tokens, and wrap it in LoRA for training."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from prosody_tagger.errors import ModelError, first_line
from prosody_tagger.model import ADDED_TOKENS, SHIPPED, add_tokens, read_tokenizer

ROWS_FILE = "token-rows.safetensors"
"""File beside a base with the embedding rows of our tokens at the end of its training; an adapter starts from them."""
LORA_MODULES = ("c_attn", "c_proj", "c_fc")
"""Attention and MLP layers of GPT-2."""
GPT2_VOCABULARY = 50_257
GPT2_TOKENIZER = SHIPPED / "gpt2-vocabulary" / "tokenizer.json"
"""The original tokenizer of GPT-2, with our tokens added."""
NEW_ROW_STD = 0.02
"""Standard deviation of the noise in new embedding rows; GPT-2's own initialisation."""


def load_base(source: str) -> tuple[Any, Tokenizer]:
    """Load a GPT-2 in float32 and its tokenizer, both with our tokens added.

    Args:
        source: a folder or a hub name. A folder without a tokenizer gets GPT-2's original one.

    Raises:
        ModelError: it cannot be loaded, or is not a GPT-2.
    """
    import torch
    from transformers import AutoConfig, GPT2LMHeadModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    if (Path(source) / "adapter_config.json").exists():
        raise ModelError(f"{source!r} is an adapter, not a base; give the folder or hub name of a GPT-2")
    try:
        kind = AutoConfig.from_pretrained(source).model_type
        if kind != "gpt2":
            raise ModelError(f"the base {source!r} is a model of type {kind!r}; give a GPT-2")
        network = GPT2LMHeadModel.from_pretrained(source, dtype=torch.float32)
        tokenizer = _load_tokenizer(source, network.config.vocab_size)
    except ModelError:
        raise
    except Exception as error:
        reason = first_line(error)
        raise ModelError(f"cannot load the base {source!r}: {reason}; give the folder or hub name of a GPT-2") from None
    add_embedding_rows(network, tokenizer, Path(source) / ROWS_FILE)
    return network, tokenizer


def add_embedding_rows(network: Any, tokenizer: Tokenizer, rows_file: Path) -> None:
    """Add embedding rows for our tokens: those of ``rows_file`` if it exists, else the mean of all rows plus noise."""
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


def add_lora(network: Any, *, r: int, alpha: float, dropout: float) -> Any:
    """Wrap the network in a LoRA adapter over attention and MLP; the embedding rows of our tokens are trainable as well."""
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


def adapter_base_name(base: str, output: Path) -> str:
    """Return how the adapter in ``output`` refers to its base.

    A hub name stays as it is, a folder beside ``output`` is given relative to it, any other folder by its absolute path.
    """
    folder = Path(base)
    if not folder.is_dir():
        return base
    is_beside = folder.resolve().parent == output.resolve().parent
    return Path(os.path.relpath(folder.resolve(), output.resolve())).as_posix() if is_beside else str(folder.resolve())


def save_adapter(network: Any, tokenizer: Tokenizer, base: str, output: Path) -> None:
    """Write the adapter and its tokenizer.

    Args:
        network: the network from `add_lora`.
        tokenizer: its tokenizer, with our tokens.
        base: the base as `adapter_base_name` gives it.
        output: the folder to write to.
    """
    config = network.peft_config["default"]
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # a set, whose order changes from run to run
    with _without_future_warnings():
        network.save_pretrained(output, save_embedding_layers=False)
    (output / "README.md").unlink(missing_ok=True)  # the empty template that peft writes
    tokenizer.save(str(output / "tokenizer.json"), pretty=False)


@contextmanager
def _without_future_warnings() -> Iterator[None]:
    """Silence peft, which reads an attribute of transformers by a deprecated name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _load_tokenizer(source: str, vocab: int) -> Tokenizer:
    """Load the base's tokenizer and add our tokens.

    A byte-pair tokenizer encodes the first word as if a space preceded it, so that a word has the same tokens anywhere in a text.
    """
    folder = Path(source)
    if folder.is_dir() and not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
        if vocab != GPT2_VOCABULARY:
            raise ModelError(
                f"the base {source!r} has no tokenizer.json, and its vocabulary of {vocab} tokens is not GPT-2's; add the file"
            )
        return read_tokenizer(GPT2_TOKENIZER)
    if (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    else:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(source).backend_tokenizer
    if tokenizer.get_vocab_size() != vocab:
        raise ModelError(
            f"the base {source!r} has {vocab} embedding rows, but its tokenizer {tokenizer.get_vocab_size()} tokens; "
            "give a base whose model and tokenizer match"
        )
    if isinstance(tokenizer.model, models.BPE):
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.no_padding()
    tokenizer.no_truncation()
    add_tokens(tokenizer)
    return tokenizer
