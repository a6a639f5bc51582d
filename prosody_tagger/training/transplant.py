"""A GPT-2 made of the weights of an encoder of BERT's kind.

The two differ in three things. An encoder normalises after each residual sum (post-LN), GPT-2 before each sublayer (pre-LN): the
stream between GPT-2's sublayers is kept as the encoder's sums up to one scale and one shift for each dimension, which least squares
finds on sample text, and each of its normalisations gives what the encoder's gives, as nearly as one scale and one shift can. An
encoder sees what follows, GPT-2 does not: in the copy of ``text <SEP> text`` it has seen it, and because the copy's positions begin
anew, a head that looks at the next token finds it there. An encoder's texts have a token before them: the positions move up by one.
What is left of the difference is for training to mend.
"""

from collections.abc import Sequence
from typing import Any

import torch

from prosody_tagger.model import ADDED_TOKENS, BOUNDARY, PROMINENCE, SEP
from prosody_tagger.training.base_models import NEW_ROW_STD
from prosody_tagger.training.distillation import Teacher


@torch.no_grad()
def transplant(teacher: Teacher, texts: Sequence[Sequence[int]]) -> tuple[Any, list[float]]:
    """A GPT-2 with the teacher's layers, word pieces and positions, and rows for our tokens after them.

    Args:
        texts: tokens of some hundred sentences, to fit the normalisations on.

    Returns:
        The network, and for each normalisation the share of the variance of the encoder's vectors that it gives.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    encoder = teacher.encoder.eval()
    shape = encoder.config
    pieces = shape.vocab_size
    network = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=pieces + len(ADDED_TOKENS),
            bos_token_id=teacher.ends[1],
            eos_token_id=teacher.ends[1],
            n_layer=shape.num_hidden_layers,
            n_head=shape.num_attention_heads,
            n_embd=shape.hidden_size,
            n_inner=shape.intermediate_size,
            n_positions=shape.max_position_embeddings - 1,
            activation_function=shape.hidden_act,
            layer_norm_epsilon=shape.layer_norm_eps,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )
    body = network.transformer
    rows = body.wte.weight
    rows[:pieces] = encoder.embeddings.word_embeddings.weight + encoder.embeddings.token_type_embeddings.weight[0]
    _set_own_rows(rows, teacher)
    body.wpe.weight.copy_(encoder.embeddings.position_embeddings.weight[1:])

    stream, changes, wanted = _states(teacher, texts)
    norms = [norm for block in body.h for norm in (block.ln_1, block.ln_2)] + [body.ln_f]
    shares = []
    for number, (norm, vectors) in enumerate(zip(norms, wanted, strict=True)):
        plain = (stream - stream.mean(1, keepdim=True)) / stream.std(1, keepdim=True, unbiased=False)
        scale, shift = _line(plain, vectors)
        norm.weight.copy_(scale)
        norm.bias.copy_(shift)
        shares.append(1 - float((vectors - scale * plain - shift).var(0).mean() / vectors.var(0).mean()))
        if norm is body.ln_f:
            break
        # The residual of the encoder is its normalised vector, that of GPT-2 the stream: what is added is scaled to the stream.
        scale, _ = _line(vectors, stream)
        _copy_sublayer(encoder.encoder.layer[number // 2], body.h[number // 2], number % 2 == 0, scale)
        stream = stream + scale * changes[number]
    return network, shares


def _copy_sublayer(source: Any, block: Any, is_attention: bool, scale: torch.Tensor) -> None:
    """Attention or MLP of one layer, its output scaled; GPT-2 keeps its matrices the other way round."""
    if is_attention:
        parts = (source.attention.self.query, source.attention.self.key, source.attention.self.value)
        block.attn.c_attn.weight.copy_(torch.cat([part.weight.T for part in parts], 1))
        block.attn.c_attn.bias.copy_(torch.cat([part.bias for part in parts]))
        out, to = source.attention.output.dense, block.attn.c_proj
    else:
        block.mlp.c_fc.weight.copy_(source.intermediate.dense.weight.T)
        block.mlp.c_fc.bias.copy_(source.intermediate.dense.bias)
        out, to = source.output.dense, block.mlp.c_proj
    to.weight.copy_(out.weight.T.double() * scale)
    to.bias.copy_(out.bias.double() * scale)


def _set_own_rows(rows: torch.Tensor, teacher: Teacher) -> None:
    """``<SEP>`` starts as the encoder's own, the labels as what the teacher's head looks for, the marks as next to nothing."""
    own = rows[-len(ADDED_TOKENS) :]
    own.normal_(0, NEW_ROW_STD)
    place = {token: number for number, token in enumerate(ADDED_TOKENS)}
    own[place[SEP]] = rows[teacher.ends[1]]
    for number, token in enumerate(PROMINENCE):
        own[place[token]] = teacher.head.weight[number]
    own[place[BOUNDARY[0]]] = 0
    own[place[BOUNDARY[1]]] = teacher.head.weight[len(PROMINENCE)]


def _states(teacher: Teacher, texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Of all tokens of all texts, in 64 bit: what enters the first normalisation, what each sublayer adds, what each normalisation
    gives."""
    encoder = teacher.encoder
    entered: list[torch.Tensor] = []
    added: list[list[torch.Tensor]] = []
    given: list[list[torch.Tensor]] = []
    hooks = [encoder.embeddings.LayerNorm.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))]

    def keep(module: torch.nn.Module, kept: list[list[torch.Tensor]]) -> None:
        own: list[torch.Tensor] = []
        kept.append(own)
        hooks.append(module.register_forward_hook(lambda _, inputs, output: own.append(output)))

    keep(encoder.embeddings.LayerNorm, given)
    for layer in encoder.encoder.layer:
        for part in (layer.attention.output, layer.output):
            keep(part.dense, added)
            keep(part.LayerNorm, given)
    try:
        for ids in texts:
            encoder(input_ids=torch.tensor([[teacher.ends[0], *ids, teacher.ends[1]]]))
    finally:
        for hook in hooks:
            hook.remove()

    def together(states: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([state[0, 1:-1] for state in states]).double()

    return together(entered), [together(states) for states in added], [together(states) for states in given]


def _line(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each dimension the scale and the shift that take ``x`` to ``y`` with least squares, from [n, dimensions] both."""
    middle = x - x.mean(0)
    scale = (middle * (y - y.mean(0))).mean(0) / (middle**2).mean(0)
    return scale, y.mean(0) - scale * x.mean(0)
