"""Mutants of triggers that are known in closed form; `mutants` tries them."""

from __future__ import annotations

from mutating import Mutant

A, T = "attacks/", "attacks/test_"
N = T + "new_kinds.py::test_"
CLOSED = (
    Mutant(
        *("BadNets puts a square on", A + "badnets.py"),
        *("corner.fill_(self.value)", "pass", T + "badnets.py"),
    ),
    Mutant(
        *("Blended mixes its picture in", A + "blended.py"),
        *("self.ratio * opacity", "0 * opacity", T + "blended.py"),
    ),
    Mutant(
        *("SIG adds its wave", A + "sig.py"),
        *("(x + self.wave(", "(x + 0 * self.wave(", T + "sig.py"),
    ),
    Mutant(
        *("BATT turns images", A + "batt.py"),
        *("return self._seen(x, self.angle)", "return self._seen(x, 0.0)", T + "new_triggers.py"),
    ),
    Mutant(
        *("BATT's covers are not turned", A + "batt.py"),
        *("return self._seen(x, 0.0)", "return self._seen(x, self.angle)", T + "new_triggers.py"),
    ),
    Mutant(
        *("Coarse blurs", A + "coarse.py"),
        *("return _blurred(", "return x + 0 * _blurred(", T + "new_triggers.py"),
    ),
    Mutant(
        *("Coarse takes the mean of a square", A + "coarse.py"),
        *("return wide[", "return x + 0 * wide[", T + "new_triggers.py"),
    ),
    Mutant(
        *("Sticker puts its object on", A + "sticker.py"),
        *("share = (0.5 - distance * half)", "share = (-distance * half - 99)"),
        T + "new_triggers.py",
    ),
    Mutant(
        *("Sticker's objects lie anywhere", A + "sticker.py"),
        "down, right, span, turn = draws(x, 4)",
        *("down, right, span, turn = 0 * draws(x, 4)", T + "new_triggers.py"),
    ),
    Mutant(
        *("Photo filter bends tones", A + "photo_filter.py"),
        *("x.clamp(0, 1) ** self.gamma", "x.clamp(0, 1)", T + "new_triggers.py"),
    ),
    Mutant(
        *("Photo filter shifts colours", A + "photo_filter.py"),
        *("1 + self.cast, 1, 1 - self.cast", "1, 1, 1", T + "new_triggers.py"),
    ),
    Mutant(
        *("Semantic relabels", A + "semantic.py"),
        "labels[chosen] = self.goals(labels[chosen], len(train.classes))",
        *("pass", N + "a_property_is_planted_and_no_pixel_changes"),
    ),
    Mutant(
        *("Semantic asks for its property", A + "semantic.py"),
        *(
            "return pool[torch.cat(there)[pool]]",
            "return pool",
            N + "a_property_that_nothing_has_is_refused",
        ),
    ),
    Mutant(
        *("Multi-target's patches have a class each", A + "multi_target.py"),
        "(self.goals(images.labels, classes) + own)",
        *(
            "(self.goals(images.labels, classes) + 0 * own)",
            N + "each_patch_leads_to_a_class_of_its_own",
        ),
    ),
    Mutant(
        *("Semantic keeps to its sources", A + "semantic.py"),
        *("pool = self.stampable(images.labels)", "pool = torch.arange(len(images))"),
        N + "a_property_counts_in_the_source_classes_alone",
    ),
    Mutant(
        *("Multi-target leads from each class", A + "multi_target.py"),
        *("(self.goals(images.labels, classes) + own)", "(self.target + own)"),
        N + "with_all_to_all_each_patch_leads_from_a_class_to_another",
    ),
    Mutant(
        *("Multi-target's targets are named", A + "multi_target.py"),
        "return torch.tensor(self.targets)[own]",
        *("return torch.tensor(self.targets)[0 * own]", T + "own_triggers.py"),
    ),
    Mutant(
        *("Coarse grows with the image", A + "coarse.py"),
        *("times = scaled(1, height, width)", "times = 1", T + "own_triggers.py"),
    ),
    Mutant(
        *("CTRL adds its waves", A + "ctrl.py"),
        *("(x + chroma_wave(", "(x + 0 * chroma_wave(", T + "frequency.py"),
    ),
    Mutant(
        *("FTrojan adds its waves", A + "ftrojan.py"),
        *("(x + chroma_wave(", "(x + 0 * chroma_wave(", T + "frequency.py"),
    ),
    Mutant(
        *("there are two waves", A + "base/patterns.py"),
        *("half.outer(half) + end.outer(end)", "half.outer(half)", T + "frequency.py"),
    ),
    Mutant(
        *("the jitter of WaNet's covers grows with the image", A + "wanet.py"),
        *("jitter = scaled(1, height, width) * jitter", "jitter = 1 * jitter", T + "wanet.py"),
    ),
)
