import pytest
import torch

from defenses.samples import task
from unbackdoor.core.measure import predictions
from unbackdoor.core.run import Run
from unbackdoor.training import relative


def test_a_network_takes_the_largest_step_that_leaves_its_answers():
    images, net = task(classes=4)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    answers = predictions(net, images, Run())

    def kept(rate):
        noisy = relative._noisy(net, relative.STEPS * rate, Run())
        return predictions(noisy, images, Run()).eq(answers).float().mean()

    assert relative.borne(net, images, Run(), 0.014) == 1
    part = relative.borne(net, images, Run(), 0.2)
    assert 0.1 < part < 1
    assert kept(0.2 * part) >= relative.KEPT > kept(0.2 * part * 2**0.5)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())


def test_no_network_takes_less_than_a_sixteenth():
    images, net = task(classes=4)
    assert relative.borne(net, images, Run(), 0.9) == pytest.approx(1 / 16)


def test_noise_is_relative_to_each_tensor():
    _, net = task()
    with torch.no_grad():
        net[0].weight.mul_(100)
    noisy = relative._noisy(net, 0.1, Run())
    for name, tensor in net.named_parameters():
        moved = (noisy.get_parameter(name) - tensor).detach().square().mean().sqrt()
        size = tensor.detach().square().mean().sqrt() if tensor.ndim > 1 else relative.TYPICAL
        assert float(moved / size) == pytest.approx(0.1, rel=0.6 if tensor.numel() < 20 else 0.2)
