"""Initialise a GPT-2 from the weights of a BERT-like encoder.

The two architectures differ in three ways:

- An encoder normalises after each residual sum (post-LN), GPT-2 before each sublayer (pre-LN). Up to one scale and one shift per
  dimension, GPT-2's residual stream is made equal to the encoder's sums; scales and shifts are fitted by least squares on sample
  text, so that each layer norm of GPT-2 approximates the output of the corresponding one of the encoder.
- An encoder attends to following tokens, GPT-2 does not. In ``text <SEP> text`` the copy can attend to the whole text, and because
  the copy's positions start again from 0, a head that attends to the next position finds it in the first half.
- An encoder's input starts with an extra token, so position embeddings are shifted by one.

Training removes the remaining difference.
"""

from collections.abc import Sequence
from typing import Any

import torch

from prosody_tagger.model import ADDED_TOKENS, BOUNDARY, PROMINENCE, SEP
from prosody_tagger.training.base_models import NEW_ROW_STD
from prosody_tagger.training.distillation import Teacher


@torch.no_grad()
def transplant(teacher: Teacher, texts: Sequence[Sequence[int]]) -> tuple[Any, list[float]]:
    """Return a GPT-2 with the teacher's layers, word pieces and positions, and with embedding rows for our tokens at the end.

    Args:
        teacher: the encoder.
        texts: token ids of some hundred sentences, to fit the layer norms on.

    Returns:
        The network, and for each layer norm the share of the variance of the encoder's vectors that it explains, 0 to 1.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    encoder = teacher.encoder.eval()
    config = encoder.config
    pieces = config.vocab_size
    network = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=pieces + len(ADDED_TOKENS),
            bos_token_id=teacher.ends[1],
            eos_token_id=teacher.ends[1],
            n_layer=config.num_hidden_layers,
            n_head=config.num_attention_heads,
            n_embd=config.hidden_size,
            n_inner=config.intermediate_size,
            n_positions=config.max_position_embeddings - 1,
            activation_function=config.hidden_act,
            layer_norm_epsilon=config.layer_norm_eps,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )
    body = network.transformer
    rows = body.wte.weight
    rows[:pieces] = encoder.embeddings.word_embeddings.weight + encoder.embeddings.token_type_embeddings.weight[0]
    _set_added_rows(rows, teacher)
    body.wpe.weight.copy_(encoder.embeddings.position_embeddings.weight[1:])

    stream, sublayer_outputs, norm_outputs = _record_states(teacher, texts)
    norms = [norm for block in body.h for norm in (block.ln_1, block.ln_2)] + [body.ln_f]
    explained = []
    for number, (norm, target) in enumerate(zip(norms, norm_outputs, strict=True)):
        normalised = (stream - stream.mean(1, keepdim=True)) / stream.std(1, keepdim=True, unbiased=False)
        scale, shift = _fit_line(normalised, target)
        norm.weight.copy_(scale)
        norm.bias.copy_(shift)
        explained.append(1 - float((target - scale * normalised - shift).var(0).mean() / target.var(0).mean()))
        if norm is body.ln_f:
            break
        # The encoder adds to its normalised vector, GPT-2 to the stream: scale the added term to the stream.
        scale, _ = _fit_line(target, stream)
        _copy_sublayer(encoder.encoder.layer[number // 2], body.h[number // 2], number % 2 == 0, scale)
        stream = stream + scale * sublayer_outputs[number]
    return network, explained


def _copy_sublayer(source: Any, block: Any, is_attention: bool, scale: torch.Tensor) -> None:
    """Copy attention or MLP of one layer, with its output scaled; GPT-2 stores its weight matrices transposed."""
    if is_attention:
        parts = (source.attention.self.query, source.attention.self.key, source.attention.self.value)
        block.attn.c_attn.weight.copy_(torch.cat([part.weight.T for part in parts], 1))
        block.attn.c_attn.bias.copy_(torch.cat([part.bias for part in parts]))
        output, target = source.attention.output.dense, block.attn.c_proj
    else:
        block.mlp.c_fc.weight.copy_(source.intermediate.dense.weight.T)
        block.mlp.c_fc.bias.copy_(source.intermediate.dense.bias)
        output, target = source.output.dense, block.mlp.c_proj
    target.weight.copy_(output.weight.T.double() * scale)
    target.bias.copy_(output.bias.double() * scale)


def _set_added_rows(rows: torch.Tensor, teacher: Teacher) -> None:
    """Initialise the rows of our tokens.

    ``<SEP>`` gets the encoder's separator, the prominence and boundary labels the weights of the teacher's head, the marks noise.
    """
    added = rows[-len(ADDED_TOKENS) :]
    added.normal_(0, NEW_ROW_STD)
    index = {token: number for number, token in enumerate(ADDED_TOKENS)}
    added[index[SEP]] = rows[teacher.ends[1]]
    for number, token in enumerate(PROMINENCE):
        added[index[token]] = teacher.head.weight[number]
    added[index[BOUNDARY[0]]] = 0
    added[index[BOUNDARY[1]]] = teacher.head.weight[len(PROMINENCE)]


def _record_states(teacher: Teacher, texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Run the encoder on the texts and record its states, each [tokens of all texts, dimensions] in float64.

    Returns:
        The input of the first layer norm, the output of each sublayer, and the output of each layer norm.
    """
    encoder = teacher.encoder
    first_input: list[torch.Tensor] = []
    sublayer_outputs: list[list[torch.Tensor]] = []
    norm_outputs: list[list[torch.Tensor]] = []
    hooks = [encoder.embeddings.LayerNorm.register_forward_pre_hook(lambda _, inputs: first_input.append(inputs[0]))]

    def record(module: torch.nn.Module, outputs: list[list[torch.Tensor]]) -> None:
        of_module: list[torch.Tensor] = []
        outputs.append(of_module)
        hooks.append(module.register_forward_hook(lambda _, inputs, output: of_module.append(output)))

    record(encoder.embeddings.LayerNorm, norm_outputs)
    for layer in encoder.encoder.layer:
        for part in (layer.attention.output, layer.output):
            record(part.dense, sublayer_outputs)
            record(part.LayerNorm, norm_outputs)
    try:
        for ids in texts:
            encoder(input_ids=torch.tensor([[teacher.ends[0], *ids, teacher.ends[1]]]))
    finally:
        for hook in hooks:
            hook.remove()

    def without_ends(states: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([state[0, 1:-1] for state in states]).double()

    return (
        without_ends(first_input),
        [without_ends(states) for states in sublayer_outputs],
        [without_ends(states) for states in norm_outputs],
    )


def _fit_line(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each dimension the least-squares scale and shift from ``x`` to ``y``, both [n, dimensions]."""
    centred = x - x.mean(0)
    scale = (centred * (y - y.mean(0))).mean(0) / (centred**2).mean(0)
    return scale, y.mean(0) - scale * x.mean(0)
