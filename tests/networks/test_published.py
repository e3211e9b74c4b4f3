"""Published networks beside a family: at its costs, by its rule, counted as it is."""

import pytest

from nas import Architecture
from nas.networks import scaling
from nas.networks.cost import Deployment
from nas.networks.published import TITLES, fitted, published
from nas.networks.scaling import PAPER, Coefficients

SMALL = Architecture.parse("28px stem8 ds_r1_k3_s1_c8 ir_r2_k3_s1_e3_c16_se0.25 ir_r3_k3_s2_e4_c24_se0.25 head64")


@pytest.mark.parametrize("keep", [(), ("stem", "head", "ends")])
def test_published_networks_come_to_the_members_costs(keep: tuple[str, ...]) -> None:
    deployment = Deployment(10, 1, 4, keep)
    members = scaling.family(SMALL, Coefficients(*PAPER), [0, 1, 2], None, deployment)
    found = published(SMALL, Coefficients(*PAPER), members)
    assert {title for title, _ in found} == set(TITLES.values())
    for (_, phi), one in found.items():
        assert one.deployment == deployment
        assert one.architecture.resolution % 4 == 0
        assert one.cost.madds == pytest.approx(members[int(phi)].cost.madds, rel=0.25)  # in steps of 4 px
        assert abs(one.phi - phi) < 1  # their start has the baseline's resolution and MAdds


def test_a_network_is_fitted_to_a_baseline_by_its_width() -> None:
    deployment = Deployment(10, 1)
    found = fitted(Architecture.load("mobilenet_v2"), SMALL, deployment)
    own = Architecture.load("mobilenet_v2").fitted(28, 1)
    assert [stage.repeats for stage in found.stages] == [stage.repeats for stage in own.stages]
    assert (found.resolution, found.stem_stride) == (28, own.stem_stride)
    assert 0.7 < deployment.cost(found).madds / deployment.cost(SMALL).madds <= 1


def test_the_baseline_is_not_beside_itself_nor_what_cannot_be_so_small() -> None:
    b0 = Architecture.load("efficientnet_b0")
    members = scaling.family(b0, Coefficients(*PAPER), [0, 1])
    assert {title for title, _ in published(b0, Coefficients(*PAPER), members)} == {"MobileNetV2", "MnasNet-A1"}
    least = Architecture.parse("28px stem4 ds_r1_k3_s2_c4 head8")
    assert published(least, Coefficients(*PAPER), scaling.family(least, Coefficients(*PAPER), [0])) == {}
