import weakref

import torch
from torch import nn

from defenses.samples import backdoored, rate, stamped, task
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.defenses.i_bau import IBAU


def test_the_perturbation_that_harms_most_is_the_trigger():
    clean, net = backdoored(classes=4)
    away = IBAU(batch=20, radius=2.0).perturbation(net, clean, Run(), 0)
    assert (away[:, :2, :2] > 0.9).all()  # the four white pixels are 2 long
    assert away.norm() <= 2.0001
    free = IBAU(batch=20, radius=1e9).perturbation(net, clean, Run(), 0)
    assert 2.0 < free.norm() < 1e6  # a ball shrinks what is outside, and no more


def test_unlearning_it_takes_the_backdoor_out():
    clean, net = backdoored()
    assert rate(net, stamped(clean), 1) == 1
    method = IBAU(batch=20, epochs=20, lr=0.1, radius=2.0, inner_lr=1e4, penalty=0.0)
    repaired = method.repair(net, clean, Run()).model
    assert rate(repaired, stamped(clean), 1) == 0
    assert rate(repaired, clean) == 1


def test_the_gradient_follows_the_perturbation():
    clean, net = task()
    x, y = clean.pixels[:40].float() / 255, clean.labels[:40]
    away = 0.3 * torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))

    def slope(terms, implicit_lr=2.0):
        net.zero_grad()
        method = IBAU(terms=terms, implicit_lr=implicit_lr, share=0.5)
        method._loss(net, x, y, away=away).backward()
        return net[0].weight.grad.clone()

    assert not torch.allclose(slope(0), slope(1), rtol=1e-2)
    assert not torch.allclose(slope(1), slope(5), rtol=1e-4)
    torch.testing.assert_close(slope(5, 1e-12), slope(0), rtol=1e-3, atol=1e-6)


def test_the_perturbation_takes_one_pass_away_from_what_the_model_answers():
    clean, net = backdoored(classes=4)
    wrong = Images(clean.pixels, clean.labels.roll(1), clean.classes)
    passes = []
    net.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    one, other = (IBAU(batch=20).perturbation(net, images, Run(), 0) for images in (clean, wrong))
    assert torch.equal(one, other)  # labels are not used
    assert passes == [20] * 2 * 4 * 2


def test_the_perturbation_holds_few_images_as_floats_and_repeats_its_pass(monkeypatch):
    clean, net = backdoored(classes=4)
    made, alive = [], []
    batches = Images.batches

    def watched(*told):
        for x, y in batches(*told):
            made.append(weakref.ref(x))
            alive.append(sum(one() is not None for one in made))
            yield x, y

    monkeypatch.setattr(Images, "batches", watched)
    seen = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    IBAU(batch=10, inner_steps=12).perturbation(net, clean, Run(), 0)
    assert len(alive) == 12 and max(alive) <= 2
    plain = seen[::2]  # each batch goes through without the perturbation first
    assert torch.equal(plain[8], plain[0]) and not torch.equal(plain[1], plain[0])
    first = next(batches(clean, 10, Run().rng("perturbation/0")))[0]
    assert torch.equal(plain[0], first)


class Attending(nn.Module):
    """Attention over the rows of an image, fused where torch can."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 2)

    def forward(self, x):
        rows = x
        return self.head(nn.functional.scaled_dot_product_attention(rows, rows, rows).flatten(1))


def test_attention_has_a_second_derivative():
    clean, _ = task()
    net = Attending().requires_grad_()
    repaired = IBAU(batch=40, epochs=1, max_acc_drop=1).repair(net, clean, Run()).model
    assert not torch.equal(repaired.head.weight, net.head.weight)


def test_norms_keep_their_statistics():
    clean, net = task()
    repaired = IBAU(batch=40, epochs=1).repair(net, clean, Run()).model
    assert torch.equal(repaired[1].running_mean, net[1].running_mean)
    assert not torch.equal(repaired[0].weight, net[0].weight)


def test_it_works_in_bfloat16():
    clean, net = task()
    repaired = IBAU(batch=40, epochs=1).repair(net, clean, Run(precision="bf16")).model
    assert all(weight.isfinite().all() for weight in repaired.parameters())


def test_one_image_in_a_hundred_is_moved():
    clean, net = task(n=200)
    x, y = clean.pixels.float() / 255, clean.labels
    seen = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    IBAU()._loss(net, x, y, away=torch.ones(1, 8, 8))
    assert torch.equal(seen[0], torch.cat([x[:2] + 1, x[2:]]))


def test_the_perturbation_pays_for_its_length():
    clean, net = backdoored(classes=4)
    free, dear = (
        IBAU(batch=20, radius=1e9, penalty=penalty).perturbation(net, clean, Run(), 0).norm()
        for penalty in (0.0, 0.04)
    )
    assert dear < 0.5 * free
