import pytest
import torch
from torch import nn

from unbackdoor.training.distillation import Distillation


def two(weights: list[list[float]]) -> nn.Linear:
    net = nn.Linear(2, 2, bias=False)
    net.weight.data = torch.tensor(weights)
    return net


def test_the_loss_is_the_divergence_of_the_answers():
    teacher, x = two([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    student, labels = two([[0.0, 0.0], [0.0, 0.0]]), torch.zeros(1, dtype=torch.int64)
    wanted = torch.softmax(torch.tensor([1.0, 0.0]), 0)  # at temperature 2
    divergence = 4 * float((wanted * (wanted / 0.5).log()).sum())
    found = Distillation(teacher, 2.0)(student, x, labels)
    assert found.item() == pytest.approx(divergence)
    assert Distillation(teacher, 2.0)(teacher, x, labels).item() == pytest.approx(0, abs=1e-6)


def test_the_teacher_is_a_copy_asked_once_a_batch_and_in_eval_mode():
    model = nn.Sequential(nn.BatchNorm1d(2), two([[1.0, 0.0], [0.0, 1.0]])).train()
    lessons, asked = Distillation(model, 1.0), []
    lessons.teacher.register_forward_pre_hook(lambda net, _: asked.append(net.training))
    x, y = torch.rand(4, 2), torch.zeros(4, dtype=torch.int64)
    lessons(model, x, y)
    lessons(model, x, y).backward()
    assert asked == [False]
    with torch.no_grad():
        model[1].weight.zero_()
    lessons(model, x.clone(), y)
    assert asked == [False, False]
    assert lessons.teacher[1].weight.abs().sum() == 2
    assert all(parameter.grad is None for parameter in lessons.teacher.parameters())
    assert torch.equal(lessons.teacher[0].running_mean, torch.zeros(2))


def test_it_counts_the_answers_that_turned():
    teacher = two([[1.0, 0.0], [0.0, 1.0]])
    student = two([[1.0, 0.0], [2.0, 0.0]])  # says the second class wherever x1 > 0
    x = torch.tensor([[1.0, 0.0], [1.0, 3.0], [2.0, 1.0], [3.0, 1.0]])
    lessons = Distillation(teacher, 1.0)
    lessons(student, x, torch.zeros(4, dtype=torch.int64))
    assert lessons.turned == 0.75  # all but the second


def test_what_the_first_question_turned_is_told_apart_from_what_the_climb_did():
    teacher, x = two([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    climbed, y = two([[-1.0, 0.0], [0.0, -1.0]]), torch.zeros(2, dtype=torch.int64)
    lessons = Distillation(teacher, 1.0)
    lessons(two([[1.0, 0.0], [0.0, 1.0]]), x, y)
    lessons(climbed, x, y)
    assert (lessons.unsettled, lessons.turned) == (0, 1)
    lessons(climbed, x.clone(), y)
    assert (lessons.unsettled, lessons.turned) == (1, 1)


def test_a_share_of_the_lesson_is_the_class_that_the_teacher_names():
    teacher, x = two([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    lessons = Distillation(teacher, 2.0, certainty=0.75)
    lessons(teacher, x, torch.ones(1, dtype=torch.int64))
    soft = torch.softmax(torch.tensor([1.0, 0.0]), 0)
    expected = 0.25 * soft + torch.tensor([0.75, 0.0])
    torch.testing.assert_close(lessons.targets[0], expected)


def shown_to(net: nn.Module) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    return seen


def test_the_model_alone_is_shown_disturbed_images_the_same_ones_for_both_passes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    lessons = Distillation(model, 1.0, share=0.5)
    told, taught = shown_to(model), shown_to(lessons.teacher)
    # Of few images all might be their own partners, and so none disturbed.
    x, y = torch.rand(61, 3, 4, 4), torch.zeros(61, dtype=torch.int64)
    before = x.clone()
    for _ in range(2):
        lessons(model, x, y)
    assert torch.equal(x, before) and torch.equal(taught[0], x) and len(taught) == 1
    assert torch.equal(told[0], told[1])
    unlike = (told[0] != x).flatten(1).any(1)
    assert unlike[31:].any() and not unlike[:31].any()


def test_answers_to_disturbed_images_do_not_count_as_turned():
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    lessons = Distillation(teacher, 1.0, share=0.75)
    x, y = torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64)
    lessons(teacher, x, y)
    assert lessons.turned == 0

    class Other(nn.Module):  # another answer than the teacher's to the first image alone
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = teacher(x)
            return torch.cat([-logits[:1], logits[1:]])

    lessons(Other(), x, y)
    assert lessons.turned == 1


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_first_question_is_a_glance_that_meets_a_calm_image(count):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    lessons = Distillation(model, 1.0, share=0.7, glance=2)
    told = shown_to(model)
    x, y = torch.rand(count, 1, 2, 2), torch.zeros(count, dtype=torch.int64)
    first = lessons(model, x, y)
    assert len(told[0]) == max(2, (count + 1) // 2) and lessons.unsettled == 0 and first.isfinite()
    lessons(model, x, y)
    assert len(told[1]) == count and torch.equal(told[1][:: 1 if count == 2 else 2], told[0])
    assert torch.equal(told[1][0], x[0])


@pytest.mark.parametrize("n", [2, 3])
def test_a_glance_leaves_a_norm_two_images(n):
    model = nn.Sequential(nn.BatchNorm1d(2), two([[1.0, 0.0], [0.0, 1.0]])).train()
    lessons = Distillation(model, 1.0, glance=2)
    assert lessons(model, torch.rand(n, 2), torch.zeros(n, dtype=torch.int64)).isfinite()
