from __future__ import annotations

import sys

import pytest
import torch

from unbackdoor import models
from unbackdoor.checkpoints import checkpoint
from unbackdoor.core.errors import CheckpointError, ImagesError, ModelError, UnknownNameError
from unbackdoor.core.images import Images
from unbackdoor.core.measure import check, predictions
from unbackdoor.core.run import Run
from unbackdoor.core.spec import Spec

NETS = """\
from torch import nn
import sibling_of_mine


class Net(nn.Module):
    def __init__(self, num_classes=10, width=2):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, width))
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.fc(self.body(x))


def by_classes(classes):
    return Net(classes)


def takes_any(**more):
    return Net(**more)


def takes_none():
    return Net(7)


def broken(num_classes):
    raise KeyError("no such width")


def leaves(num_classes):
    raise SystemExit(3)


class Fails(Net):
    def forward(self, x):
        assert x.shape[-1] == 224, "Input height (2) does not match"
        return x


class Quits(Net):
    def forward(self, x):
        raise SystemExit(0)


class Tires(Net):
    def forward(self, x):
        if len(x) > 2:
            raise ValueError("more than two")
        return super().forward(x)


class Nothing(Net):
    def forward(self, x):
        return super().forward(x) * float("nan")
"""


pytestmark = pytest.mark.filterwarnings("ignore::unbackdoor.core.errors.UnbackdoorWarning")


def line(text):
    return next(n for n, code in enumerate(NETS.splitlines(), 1) if text in code)


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "nets_of_mine.py").write_text(NETS)
    (tmp_path / "sibling_of_mine.py").write_text("")
    (tmp_path / "broken_of_mine.py").write_text("\nx = 1 / 0\n")
    (tmp_path / "syntax_of_mine.py").write_text("def f(:")
    (tmp_path / "missing_of_mine.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    assert sys.path == before
    for name in [name for name in sys.modules if "_of_mine" in name]:
        del sys.modules[name]


def made(arch, classes=3, **options):
    names = tuple(map(str, range(classes)))
    return models.create(Spec(arch, names, (0.0,) * 3, (1.0,) * 3, options))


@pytest.mark.parametrize("module", ["nets_of_mine", "nets_of_mine.py", "./nets_of_mine.py"])
@pytest.mark.parametrize("name", ["Net", "by_classes", "takes_any"])
def test_a_network_beside_you_gets_its_number_of_classes(here, module, name):
    assert made(f"{module}:{name}").net.fc.out_features == 3


def test_a_file_anywhere_by_its_path(here, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    model = made(f"{here}/nets_of_mine.py:Net", width=5)
    assert model.net.fc.in_features == 5
    with pytest.raises(UnknownNameError, match="did you mean 'width'"):
        made(f"{here}/nets_of_mine.py:Net", widht=5)


@pytest.mark.parametrize(
    ("arch", "told"),
    [
        (
            "nets_of_mine:broken",
            rf"mine.py, line {line('no such')}: KeyError: 'no such width'",
        ),
        ("nets_of_mine:leaves", rf"nets_of_mine.py, line {line('SystemExit')}: SystemExit: 3"),
        ("broken_of_mine:f", r"broken_of_mine.py, line 2: ZeroDivisionError: division by zero"),
        ("broken_of_mine.py:f", r"broken_of_mine.py, line 2: ZeroDivisionError"),
        ("syntax_of_mine:f", r"syntax_of_mine.py, line 1: SyntaxError"),
        ("missing_of_mine:f", r"missing_of_mine.py, line 1: ModuleNotFoundError: .*no_such_pack"),
    ],
)
def test_whatever_ones_code_raises_is_one_line_with_its_place(here, arch, told):
    with pytest.raises(ModelError, match=told) as caught:
        made(arch)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arch", "told"),
    [
        ("nets_of_mine:Nett", "did you mean 'Net'"),
        ("no_module_of_mine:Net", "no module 'no_module_of_mine' here"),
        ("none_of_mine.py:Net", "no such file"),
        ("nets_of_mine:", "give mynet.py:Net"),
    ],
)
def test_names_that_stand_for_nothing(here, arch, told):
    with pytest.raises(UnknownNameError, match=told):
        made(arch)


def test_the_number_of_classes_is_read_off_the_last_layer(here):
    for arch, classes in (("nets_of_mine:Net", 4), ("nets_of_mine:takes_none", 7)):
        net = made(arch, classes)
        torch.save({"state_dict": net.net.state_dict()}, here / "a.pt")
        found = checkpoint.load(here / "a.pt", arch=arch, mean=[0.0] * 3, std=[1.0] * 3)
        assert len(found.spec.classes) == classes
    with pytest.raises(CheckpointError, match="missing"):
        checkpoint.load(here / "a.pt", arch="cifar_resnet", mean=[0.0] * 3, std=[1.0] * 3)


IMAGES = Images(torch.zeros(3, 3, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2]), tuple("abc"))


def test_a_network_that_ends_the_program_does_not(here):
    told = rf"nets_of_mine.py, line {line('SystemExit(0)')}: SystemExit"
    with pytest.raises(ValueError, match=told):
        check(made("nets_of_mine:Quits"), IMAGES)


def test_a_network_that_fails_later_is_one_line_with_its_place(here):
    net = made("nets_of_mine:Tires")
    check(net, IMAGES)
    told = rf"cannot take images .* line {line('more than two')}: ValueError: more than two"
    with pytest.raises(ModelError, match=told):
        predictions(net, IMAGES, Run())


def test_errors_of_ours_pass_through_a_persons_network(here):
    net = made("nets_of_mine:Net")

    def seen(*_):
        raise ImagesError("seen enough")

    net.net.fc.register_forward_hook(seen)
    with pytest.raises(ImagesError, match=r"^seen enough$"):
        predictions(net, IMAGES, Run())


def test_outputs_that_are_no_numbers_are_refused(here):
    with pytest.raises(ModelError, match="not finite"):
        check(made("nets_of_mine:Nothing"), IMAGES)


def test_a_forward_pass_that_fails_is_one_line_with_its_place(here):
    told = rf"\[3, 2, 2\] at .*nets_of_mine.py, line {line('assert')}: Assert.*does not"
    images = Images(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), tuple("abc"))
    with pytest.raises(ValueError, match=told) as caught:
        check(made("nets_of_mine:Fails"), images)
    assert "\n" not in str(caught.value)
