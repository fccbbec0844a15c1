import pytest
import torch

from defenses.samples import backdoored, rate, stamped, task
from unbackdoor.core.errors import ParameterError, UnbackdoorWarning
from unbackdoor.core.run import Run
from unbackdoor.defenses.neural_cleanse import NeuralCleanse
from unbackdoor.defenses.pam import PAM
from unbackdoor.training.inversion import Patch

FAST = {"search_epochs": 40, "search_batch": 40, "batch": 40, "cost": 0.05}


def test_the_planted_class_is_found_and_its_trigger_unlearned():
    clean, net = backdoored(classes=5)
    assert rate(net, stamped(clean), 1) == 1
    method = NeuralCleanse(**FAST, epochs=100, lr=5.0, weight_decay=0, share=0.5, max_acc_drop=1)
    repaired = method.repair(net, clean, Run())
    assert repaired.notes["strongest_class"] == 1
    assert repaired.notes["outliers"] >= 1
    assert repaired.scores["trigger sizes"].argmin() == 1
    assert rate(repaired.model, stamped(clean), 1) < 0.5


def test_without_an_outlier_the_model_is_left_alone():
    clean, net = backdoored()  # of two classes
    with pytest.warns(UnbackdoorWarning, match="neural_cleanse changed no weight"):
        repaired = NeuralCleanse(**FAST).repair(net, clean, Run())
    assert repaired.notes["outliers"] == 0


def test_patches_are_stamped_in_turn_and_labels_stay():
    clean, _ = backdoored(n=40)
    black = Patch(torch.ones(8, 8), torch.zeros(1, 8, 8), 1.0)
    white = Patch(torch.ones(8, 8), torch.ones(1, 8, 8), 1.0)
    made = NeuralCleanse(share=0.5).stamped(clean, [black, white], Run())
    plain = made.pixels.flatten(1)
    assert int((plain == 0).all(1).sum()) == 10
    assert int((plain == 255).all(1).sum()) == 10
    assert torch.equal(made.labels, clean.labels)


def test_a_search_beyond_the_budget_is_refused_with_its_cost(monkeypatch):
    clean, net = task(n=40, classes=4)
    monkeypatch.setattr("unbackdoor.defenses.neural_cleanse.seconds_of_step", lambda *_: 45.0)
    told = {"search_epochs": 10, "search_batch": 10}
    with pytest.raises(
        ParameterError, match=r"4 classes in 160 steps of 10 images, about 2 hours .*budget of 159"
    ):
        NeuralCleanse(**told, budget=159).repair(net, clean, Run())
    NeuralCleanse(**told, budget=160).check(net, clean)
    around = PAM(of="neural_cleanse", rounds=2, settings={**told, "budget": 479})
    with pytest.raises(ParameterError, match=r"in 480 steps"):  # its own and one in each round
        around.check(net, clean)


def test_a_long_search_is_announced_with_its_hours(monkeypatch):
    clean, net = task(n=40, classes=4)
    monkeypatch.setattr("unbackdoor.defenses.neural_cleanse.seconds_of_step", lambda *_: 45.0)
    monkeypatch.setattr(NeuralCleanse, "triggers", lambda *_: [Patch(*torch.rand(2, 4), 1.0)] * 4)
    told = NeuralCleanse(search_epochs=10, search_batch=10)
    told.mend(net, clean, Run())  # short, so nothing is said
    monkeypatch.setattr("unbackdoor.defenses.neural_cleanse.LONG", 159)
    with pytest.warns(UnbackdoorWarning, match="4 classes in 160 steps of 10 images, about 2 hour"):
        told.mend(net, clean, Run())
    monkeypatch.setattr("unbackdoor.defenses.neural_cleanse.seconds_of_step", lambda *_: 1.0)
    with pytest.warns(UnbackdoorWarning, match="less than an hour"):
        told.mend(net, clean, Run())


def test_it_foretells_what_the_classes_cost_and_pam_four_times_that():
    # 80 epochs of a thousand classes with 32 images, and ten epochs of unlearning.
    method = NeuralCleanse()
    assert method.work(32, 1000) == 1000 * 80 * 32 + 10 * 32
    around = PAM(of="neural_cleanse", epochs=0)
    assert around.work(32, 1000) == 4 * 1000 * 80 * 32 + 10 * 32


def test_the_search_sees_some_of_the_images_in_steps_of_its_own():
    clean, net = backdoored(n=80)
    net.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    seen = []
    NeuralCleanse(search_epochs=2, search_images=20, search_batch=10).triggers(net, clean, Run())
    assert seen == [10] * (2 * 2 * 2)  # of two classes, epochs and steps
