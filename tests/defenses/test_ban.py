import torch
from torch.nn import functional as F

from defenses.samples import task
from unbackdoor.core.run import Run
from unbackdoor.defenses.ban import BAN
from unbackdoor.training.neuron_noise import drawn, scaled_parameters, under, worst

TOLD = {"epochs": 8, "batch": 20, "lr": 0.02, "radius": 0.5, "weight_decay": 0.0}


def lost_under_noise(net, clean):
    x, y = clean.pixels / 255, clean.labels
    values = scaled_parameters(net, x)
    start = drawn(values, 0.5, torch.Generator().manual_seed(5))
    noise = worst(net, x, y, start, radius=0.5, step=0.1, steps=10)
    return F.cross_entropy(under(net, values, noise, x), y)


def test_the_model_learns_to_be_right_under_noise():
    clean, net = task()
    run = Run(precision="fp32")
    plain, trained = (
        BAN(**TOLD, weight=weight).repair(net, clean, run).model.eval() for weight in (0.0, 4.0)
    )
    assert lost_under_noise(trained, clean) < 0.8 * lost_under_noise(plain, clean)


def test_a_norm_that_no_pass_calls_is_left_alone():
    clean, net = task()
    net[0].register_module("spare", torch.nn.BatchNorm2d(6))
    repaired = BAN(**TOLD | {"epochs": 1}, held_out=0.0).repair(net, clean, Run()).model
    assert torch.equal(repaired[0].spare.weight, net[0].spare.weight)
    assert not torch.equal(repaired[4].weight, net[4].weight)


def test_the_statistics_of_norms_are_those_without_noise():
    clean, net = task()
    told = TOLD | {"epochs": 1}
    repaired = BAN(**told, held_out=0.0).repair(net, clean, Run(precision="fp32")).model
    # Four batches of 20, each counted once and not in the passes under noise.
    assert repaired[4].num_batches_tracked - net[4].num_batches_tracked == 4
