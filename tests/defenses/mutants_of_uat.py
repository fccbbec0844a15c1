"""Core ideas of UAT."""

from __future__ import annotations

from mutating import Mutant

D, T = "defenses/", "defenses/test_"

MUTANTS = (
    Mutant(
        "UAT moves images",
        D + "uat.py",
        "universal.added(x[:moved])",
        "x[:moved]",
        T + "uat.py",
    ),
    Mutant(
        "UAT keeps its old answers",
        D + "uat.py",
        "torch.lerp(kept, F.cross_entropy(told, y), labels)",
        "F.cross_entropy(told, y) + 0 * kept",
        T + "uat.py",
    ),
    Mutant(
        "UAT's rate is relative",
        "training/relative.py",
        '"lr": rate * scale',
        '"lr": rate',
        T + "uat.py",
    ),
    Mutant(
        "UAT's norms follow the clean images",
        D + "uat.py",
        "follow_norms_(model, x, method.norm_momentum)",
        "pass",
        T + "uat.py",
    ),
    Mutant(
        "UAT puts patches on",
        D + "uat.py",
        "self.patches.put(patched) if len(patched) else patched",
        "patched",
        T + "uat.py",
    ),
    Mutant(
        "the patch that worked best stays",
        "training/patches.py",
        "sorted(found, key=lambda one: one[0])[-KEPT:]",
        "found[-KEPT:]",
        "training/test_patches.py",
    ),
    Mutant(
        "a patch stands where it leads best",
        "training/patches.py",
        "best[int(lost(best, x).argmin())]",
        "squares[0]",
        "training/test_patches.py",
    ),
    Mutant(
        "plain colours are tried where a patch works",
        "training/patches.py",
        "if hits(each, square) > OBEYED]",
        "if False]",
        "training/test_patches.py",
    ),
    Mutant(
        "a patch shrinks to what works",
        "training/patches.py",
        "LOST * hits(box)",
        "2.0",
        "training/test_patches.py",
    ),
    Mutant(
        "UAT puts transformations on",
        D + "uat.py",
        "self.transforms.put(turned) if len(turned) else turned",
        "turned",
        T + "uat_bounds.py",
    ),
    Mutant(
        "UAT looks for transformations",
        D + "uat.py",
        "self.transforms.search(model, x, y)",
        "pass",
        T + "uat_bounds.py",
    ),
    Mutant(
        "only a transformation that images obey is kept",
        "training/transforms.py",
        "if each[0] > OBEYED]",
        "if True]",
        "training/test_transforms.py",
    ),
    Mutant(
        "only images that are told rightly show a transformation",
        "training/transforms.py",
        "x, y = x[right], y[right]",
        "pass",
        "training/test_transforms.py",
    ),
    Mutant(
        "a transformation becomes as small as it may",
        "training/transforms.py",
        "if won >= least:",
        "if False:",
        "training/test_transforms.py",
    ),
    Mutant(
        "weights fade",
        "training/relative.py",
        "decay / scale",
        "0.0",
        T + "uat.py",
    ),
    Mutant(
        "every way of disturbing has its turn",
        "training/disturbance.py",
        "(first + place) % len(ways)",
        "0",
        "training/test_disturbance.py",
    ),
    Mutant(
        "UAT settles",
        D + "uat.py",
        '("settling", self.settling,',
        '("settling", 0,',
        T + "uat.py",
    ),
    Mutant(
        "few labels weigh little while UAT settles",
        D + "uat.py",
        "lesson.worth, lesson.view = len(clean) / PLENTY,",
        "lesson.worth, lesson.view = 1.0,",
        T + "uat.py",
    ),
    Mutant(
        "the teacher sees the view that the model sees",
        D + "uat.py",
        "self.teacher(x.clone())",
        "self.teacher(x.flip(-1))",
        T + "uat.py",
    ),
    Mutant(
        "few images are mixed while UAT settles",
        D + "uat.py",
        "replace(self.view, mixed=self.worth < 1)(x)",
        "self.view(x)",
        T + "uat.py",
    ),
    Mutant(
        "a mixed view mixes",
        "training/views.py",
        "return torch.lerp(seen, others, shares.to(x))",
        "return seen",
        "training/test_views.py",
    ),
    Mutant(
        "images are mirrored only where the model tells them as well",
        "training/views.py",
        "return turned >= ALIKE * as_they_are",
        "return True",
        "training/test_views.py",
    ),
)
