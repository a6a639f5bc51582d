"""Length-grouped sampler: batches, ranks, and restoring the position."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prosody_tagger.errors import BadInput
from synth.higgs_finetune.batch_sampler import LengthGroupedSampler


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=90), st.integers(1, 5), st.integers(1, 4), st.integers(0, 9))
def test_ranks_share_each_step_and_an_epoch_has_every_example_once(lengths: list[int], size: int, ranks: int, seed: int) -> None:
    whole = LengthGroupedSampler(lengths, size * ranks, seed=seed)
    shares = [LengthGroupedSampler(lengths, size, seed=seed, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert sorted(index for batch in whole for index in batch) == list(range(len(lengths)))
    assert len({len(share) for share in (whole, *shares)}) == 1
    for step, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert {index for part in parts for index in part} == set(step)
        assert all(1 <= len(part) <= size for part in parts)
        assert sum(map(len, parts)) == max(len(step), ranks)


def test_batches_group_similar_lengths_and_the_longest_comes_first() -> None:
    lengths = torch.randint(10, 1000, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    sampler = LengthGroupedSampler(lengths, 8)
    batches = list(sampler)
    padding = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches) / sum(lengths)
    assert padding < 1.1
    assert max(lengths) in [lengths[i] for i in batches[0]]
    assert batches != sampler.batches(1)
    assert batches == list(LengthGroupedSampler(lengths, 8))
    assert batches != list(LengthGroupedSampler(lengths, 8, seed=1))


def test_the_position_is_restored_regardless_of_prefetching() -> None:
    lengths = [3, 9, 4, 4, 8, 1, 7]
    sampler = LengthGroupedSampler(lengths, 2, seed=4)
    for _ in range(5):
        next(iter(sampler))
        sampler.advance()
    assert (sampler.epoch, sampler.step) == (1, 1)
    again = LengthGroupedSampler(lengths, 1, seed=4, rank=1, ranks=2)
    again.load_state(sampler.state())
    assert [batch[1::2] or batch[:1] for batch in sampler] == list(again)
    assert len(list(again)) == 3
    for other in (
        LengthGroupedSampler([*lengths[:-1], 2], 2, seed=4),
        LengthGroupedSampler(lengths, 2),
        LengthGroupedSampler(lengths, 3, seed=4),
    ):
        with pytest.raises(BadInput, match="start a new run"):
            other.load_state(sampler.state())


def test_empty_data_and_invalid_sizes_are_refused() -> None:
    for lengths, batch_size, rank in (([], 1, 0), ([1], 0, 0), ([1], 1, 1)):
        with pytest.raises(BadInput):
            LengthGroupedSampler(lengths, batch_size, rank=rank)
