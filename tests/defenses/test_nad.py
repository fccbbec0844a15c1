import pytest
import torch

from defenses.samples import task
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.defenses.nad import NAD
from unbackdoor.network.attention import attention, stage_maps
from unbackdoor.training.fit import cosine


def maps_of(net, x):
    with torch.no_grad(), stage_maps(net, ("5",)) as maps:
        net(x)
    return attention(maps["5"])


def test_beta_holds_the_attention_where_the_teacher_has_it():
    clean, net = task()
    x = clean.pixels.float() / 255
    # Labels that make no sense move the attention. A teacher of no epochs is the victim itself.
    senseless = clean.labels.roll(1) * (torch.arange(len(clean)) % 3 > 0)
    clean = Images(clean.pixels, senseless, clean.classes)
    method = NAD(epochs=10, teacher_epochs=0, batch=16, lr=0.05, max_acc_drop=1)
    free, held = (
        method.model_copy(update={"betas": (beta,)}).repair(net, clean, Run()).model
        for beta in (0.0, 30.0)
    )
    moved = [(maps_of(model, x) - maps_of(net, x)).square().sum() for model in (free, held)]
    assert moved[1] < 0.1 * moved[0]


@pytest.mark.parametrize("epochs", [1, 2, 3, 20])
def test_the_rate_falls_to_a_tenth_after_two_epochs(epochs):
    shares = [NAD().schedule(epochs)(step, 5 * epochs) for step in range(5 * epochs)]
    assert shares == [1.0] * min(10, 5 * epochs) + [0.1] * max(0, 5 * epochs - 10)
    assert NAD(drop_after=0).schedule(epochs) is cosine


def test_both_trainings_take_the_schedule(monkeypatch):
    seen = []
    monkeypatch.setattr(NAD, "tune", lambda *_, schedule, **told: seen.append(schedule(5, 6)))
    clean, net = task()
    NAD(epochs=3, teacher_epochs=6).mend(net, clean, Run())
    assert seen == [0.1, 0.1]


def test_both_budgets_are_spent():
    clean, net = task()
    repaired = NAD(epochs=2, teacher_epochs=3, batch=16, held_out=0).repair(net, clean, Run())
    probe = 2 / len(clean)
    assert abs(repaired.notes["passes"] - (3 + 2 * 2 + probe)) < 1e-9
    assert not torch.equal(repaired.model[0].weight, net[0].weight)


def test_the_teacher_shows_its_attention_in_eval_mode(monkeypatch):
    clean, net = task()
    kept = {}
    monkeypatch.setattr(NAD, "tune", lambda *_, **told: kept.update(told))
    NAD(betas=(5000.0,)).mend(net.train(), clean, Run())
    x, y = clean.pixels / 255, clean.labels
    # The untrained teacher is the model itself, so in the same mode no attention differs.
    expected = torch.nn.functional.cross_entropy(net.eval()(x), y)
    torch.testing.assert_close(kept["objective"](net, x, y), expected)
