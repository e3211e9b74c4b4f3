"""The table of latencies: what it holds, and what it makes of a network. No timing is asserted."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given

from nas import Architecture, SearchSpace, UserError
from nas.devices.latency import Conditions, Table, cover, deployed, doubt, measure, measure_table
from nas.networks.parts import part_names
from tests.helpers.strategies import architectures

SPACE = SearchSpace("small", ("ds_r{1|2}_k3_s1_c8", "ir_r{1|2}_k{3|5}_s{1|2}_e2_c{8|16}_se{0|0.25}"), 8, 16, 32)
HERE = Conditions("cpu", 1)


def test_a_prediction_is_the_sum_over_the_parts() -> None:
    table = Table(
        HERE,
        {part: 0.01 * 1.1**-i for i, part in enumerate(sorted({p for a in SPACE.enumerate() for p in part_names(a)}))},
    )
    one = Architecture.parse("32px stem8 head16 ds_r1_k3_s1_e1_c8 ir_r1_k3_s2_e2_c8")
    two = Architecture.parse("32px stem8 head16 ds_r1_k3_s1_e1_c8 ir_r2_k3_s2_e2_c8")
    (added,) = (Counter(part_names(two)) - Counter(part_names(one))).elements()
    assert table.predict(two) - table.predict(one) == pytest.approx(table.seconds[added])
    assert table.predict(one) == pytest.approx(sum(table.seconds[part] for part in part_names(one)))
    with pytest.raises(UserError, match="no part"):
        table.predict(one.at(64))


def test_stems_of_other_strides_are_other_parts() -> None:
    one, other = (
        part_names(Architecture.parse(f"32px {stem} head16 ds_r1_k3_s1_e1_c8")) for stem in ("stem8", "stem8_s1")
    )
    assert (one[0], other[0]) == ("32px c3 stem8 silu", "32px c3 stem8_s1 silu")
    assert one[1:] == [part.replace("32px", "16px") for part in other[1:]]


@pytest.mark.parametrize("space", [SPACE, SPACE.fitted(16), SearchSpace.load("mnas")])
def test_a_cover_holds_every_part_of_its_space_often_enough(space: SearchSpace) -> None:
    held = Counter(part for arch in cover(space, 2, 0) for part in set(part_names(arch)))
    assert min(held.values()) >= 2
    for seed in range(200):
        assert set(part_names(space.sample(seed))) <= set(held)


def test_a_measured_table_predicts_every_network_and_survives_its_file(tmp_path: Path) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    table = measure_table(SPACE, HERE, times=1, passes=1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert all(table.predict(arch) > 0 for arch in SPACE.enumerate())
    (tmp_path / "t.csv").write_text(table.to_csv())
    assert Table.load(tmp_path / "t.csv") == table
    (tmp_path / "t.csv").write_text("part,seconds")
    with pytest.raises(UserError, match="not a latency table"):
        Table.load(tmp_path / "t.csv")


def test_a_table_of_a_busy_machine_is_doubted() -> None:
    """By the median: one network that other work disturbed says nothing of the table."""
    predicted = [0.01, 0.02, 0.03]
    assert not doubt(predicted, [0.011, 0.018, 0.3])
    assert "take 0.1 times the latency predicted" in doubt(predicted, [0.001, 0.002, 0.03])
    assert "take 2 times" in doubt(predicted, [0.02, 0.04, 0.03])
    assert not doubt([], [])


@given(architectures())
def test_what_is_timed_is_the_network_part_by_part(arch: Architecture) -> None:
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        whole = arch.build().eval()
        torch.manual_seed(0)
        pieces = deployed(arch)
        assert len(pieces) == len(part_names(arch))
        images = torch.randn(1, 3, arch.resolution, arch.resolution)
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for piece in pieces for m in piece.modules())
        torch.testing.assert_close(torch.nn.Sequential(*pieces)(images), whole(images), rtol=1e-3, atol=1e-4)


def test_a_measurement_says_its_terms() -> None:
    found = measure(next(SPACE.enumerate()), Conditions("cpu", 1, 2), repeats=3)
    assert (found.repeats, found.batch, found.resolution, found.threads, found.device) == (3, 2, 32, 1, "cpu")
    assert 0 < found.low <= found.median <= found.high
