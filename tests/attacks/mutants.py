"""Deletes the core idea of an attack, one at a time, and demands that a test fails.

    PYTHONPATH=src:tests python -m attacks.mutants [PART OF A NAME]...

`make mutants` runs all, of attacks and defenses; exit code 1 where one survives.
"""

from __future__ import annotations

import sys

from mutating import Mutant, main

from .mutants_closed import CLOSED
from .mutants_learned import LEARNED

A, T = "attacks/", "attacks/test_"
N = T + "new_kinds.py::test_"
MUTANTS = (
    *CLOSED,
    *LEARNED,
    Mutant(
        *("Blind attacks the loss", A + "blind.py"),
        *("return _balanced(clean, stamped, learning)", "return clean", T + "blind.py"),
    ),
    Mutant(
        *("Blind teaches the goals", A + "blind.py"),
        "goals = torch.cat([self.goals(y[chosen], logits.shape[1]), y[covers]])",
        *("goals = torch.cat([y[chosen], y[covers]])", T + "blind.py"),
    ),
    Mutant(
        *("Blind weighs each gradient over loss and length", A + "blind.py"),
        "slope / (loss * slope.norm()).clamp(min=1e-6)",
        *("slope / loss.clamp(min=1e-6)", T + "blind.py"),
    ),
    Mutant(
        *("Blind waits for a low clean loss", A + "blind.py"),
        *("clean.item() > self.threshold", "False", T + "blind.py"),
    ),
    Mutant(
        *("LIRA has a backdoor loss", A + "lira.py"),
        "return self.clean_weight * clean + (1 - self.clean_weight) * stamped",
        *("return self.clean_weight * clean + 0 * stamped", T + "lira.py"),
    ),
    Mutant(
        *("LIRA's change is bounded", A + "lira.py"),
        *("(x + self.eps * change.float().tanh())", "(x + change.float().tanh())", T + "lira.py"),
    ),
    Mutant(
        *("input-aware triggers are diverse", A + "input_aware.py"),
        *(" + self.diversity * _sameness(x, pattern)", "", T + "input_aware.py"),
    ),
    Mutant(
        *("input-aware's diversity is the right way round", A + "input_aware.py"),
        "return (apart / (made_apart + 1e-7)).mean()",
        *("return (made_apart / (apart + 1e-7)).mean()", T + "input_aware.py"),
    ),
    Mutant(
        *("input-aware images get another's trigger", A + "input_aware.py"),
        *("givers = (crossed + 1) % len(y)", "givers = crossed", T + "input_aware.py"),
    ),
    Mutant(
        *("WaNet's covers are jittered", A + "wanet.py"),
        *("+ jitter / height)", "+ 0.01 * jitter / height)", T + "wanet.py"),
    ),
    Mutant(
        *("the surrogate is trained", A + "base/surrogate.py"),
        'fit(clean, train, run, stage="clean model", **wanted)',
        'fit(clean, train, run, stage="clean model", **{**wanted, "lr": 1e-9})',
        T + "surrogate.py",
    ),
    Mutant(
        *("the surrogate has weights of its own", A + "base/surrogate.py"),
        'clean = fresh_copy(model, run, "surrogate").to(run.device)',
        "clean = copy.deepcopy(model).to(run.device)",
        T + "surrogate.py",
    ),
    Mutant(
        *("SSBA keeps the image", A + "ssba.py"),
        "loss = self.image_weight * residual.square().mean()",
        "loss = 0 * residual.square().mean()",
        T + "learned.py",
    ),
    Mutant(
        *("LF is scaled to its strength", A + "lf.py"),
        "return raised * (self.strength / (raised.max() + 1e-12))",
        *("return raised", T + "learned.py"),
    ),
    Mutant(
        *("LF is one-sided", A + "lf.py"),
        *("raised = smooth - smooth.min()", "raised = smooth", T + "learned.py"),
    ),
    Mutant(
        *("LF is low-frequency", A + "lf.py"),
        "smooth = low_pass(rough, self.sigma)",
        *("smooth = low_pass(rough, 6.0)", T + "learned.py"),
    ),
    Mutant(
        *("LF points to the target", A + "lf.py"),
        *("rough.detach() - pace * slope", "rough.detach() + pace * slope", T + "learned.py"),
    ),
    Mutant(
        *("Adaptive-Patch has its opacities", A + "adaptive_patch.py"),
        "OPACITIES = (0.5, 0.2, 0.5, 0.3)",
        *("OPACITIES = (1.0, 0.2, 1.0, 1.0)", T + "adaptive.py"),
    ),
    Mutant(
        *("Adaptive-Patch shows two at test", A + "adaptive_patch.py"),
        *("in clearest[: self.together]", "in clearest", T + "adaptive.py"),
    ),
    Mutant(
        *("Adaptive-Blend is fainter in training", A + "adaptive_blend.py"),
        *("self.faint * seen", "self.ratio * seen", T + "adaptive.py"),
    ),
    Mutant(
        *("Refool mixes in linear light", A + "refool.py"),
        *("GAMMA = 2.2", "GAMMA = 1.0", T + "refool.py"),
    ),
    Mutant(
        *("Narcissus' surrogate never saw the other classes", A + "narcissus.py"),
        "seen = self.seen(inside, run)",
        *("seen = train", T + "narcissus.py"),
    ),
    Mutant(
        *("Narcissus' noise points inward", A + "narcissus.py"),
        "_margin(net((x + noise).clamp(0, 1)).float(), y).mean()",
        "-_margin(net((x + noise).clamp(0, 1)).float(), y).mean()",
        T + "narcissus.py",
    ),
    Mutant(
        *("Narcissus is magnified at test", A + "narcissus.py"),
        *("(x + self.magnify * needed(", "(x + needed(", T + "narcissus.py"),
    ),
    Mutant(
        *("TrojanNN takes the best connected neurons", A + "trojannn.py"),
        "last.weight.abs().sum(0).topk",
        *("last.weight.abs().sum(0).neg().topk", T + "learned.py"),
    ),
    Mutant(
        *("TrojanNN drives them to a value", A + "trojannn.py"),
        "short = (seen[0][:, neurons] - self.value).square().mean()",
        *("short = -seen[0][:, neurons].sum()", T + "learned.py"),
    ),
    Mutant(
        *("label-consistent images are made hard", A + "label_consistent.py"),
        *("pixels[chosen] = adversarial", "pixels[chosen[:1]] = adversarial[:1]", T + "learned.py"),
    ),
    Mutant(
        *("CTRL stamps half of the class", A + "base/clean_label.py"),
        "return max(1, round(self.class_rate * there))",
        *("return max(1, round(0.1 * there))", T + "frequency.py"),
    ),
    Mutant(
        *("BPP's covers keep their label but for a residual", A + "bpp.py"),
        *("(x + (self.stamp(x) - x).roll(1, 0))", "(x + 0 * x)", T + "bpp.py"),
    ),
    Mutant(
        *("only relabelled images are learned", A + "base/attack.py"),
        "(found.role == STAMPED) & (found.images.labels != found.original)",
        *("found.role == STAMPED", T + "planting.py"),
    ),
    Mutant(
        *("sources are covered", A + "base/poisoning.py"),
        *(
            "wanted = round(self.source_covers * len(stamped))",
            "wanted = round(0.0)",
            T + "sources.py",
        ),
    ),
    Mutant(
        *("exported classes all have a folder", A + "base/export.py"),
        "for name in names:",
        *("for name in sorted({names[k] for k in images.labels.tolist()}):", T + "export.py"),
    ),
    Mutant(
        *("BackdoorBench's indicator covers the whole set", A + "base/backdoorbench.py"),
        *("indicator = np.zeros(total)", "indicator = np.zeros(len(rows))", T + "backdoorbench.py"),
    ),
    Mutant(
        *("TrojanNN's patch grows with the image", A + "trojannn.py"),
        "side = scaled(self.size, *train.shape[1:])",
        *("side = self.size", T + "own_triggers.py"),
    ),
    Mutant(
        *("folders sort in the order of the classes", A + "base/export.py"),
        *(" and sorted(classes) == list(classes)", "", T + "export.py"),
    ),
    Mutant(
        *("LIRA's first stage learns", A + "lira.py"),
        "return self._loss(joint.victim, lambda x: self._changed(generator, x), x, y)",
        "return 0 * self._loss(joint.victim, lambda x: self._changed(generator, x), x, y)",
        T + "lira.py",
    ),
    Mutant(
        *("input-aware masks are diverse", A + "input_aware.py"),
        "return _sameness(x, self._mask(masks, x))",
        *("return 0 * _sameness(x, self._mask(masks, x))", T + "input_aware.py"),
    ),
    Mutant(
        *("Adaptive-Blend has covers", A + "adaptive_blend.py"),
        *("return round(self.covers * stamped)", "return 0", T + "adaptive.py"),
    ),
    Mutant(
        *("Adaptive-Patch has covers", A + "adaptive_patch.py"),
        *("return round(self.covers * stamped)", "return 0", T + "adaptive.py"),
    ),
    Mutant(
        *("Adaptive-Consistent disturbs images", A + "adaptive_consistent.py"),
        *(
            "disturbed(x, WAYS)",
            "x",
            N + "an_adaptive_victim_is_shown_disturbed_images_as_well",
        ),
    ),
    Mutant(
        *("Adaptive-Consistent teaches disturbed images", A + "adaptive_consistent.py"),
        "self.weight * F.cross_entropy(shaken, y)",
        *(
            "0 * F.cross_entropy(shaken, y)",
            N + "disturbed_images_are_taught_the_same_labels",
        ),
    ),
    Mutant(
        *("Adaptive-Flat climbs first", A + "adaptive_flat.py"),
        *(
            "rho=self.rho",
            "rho=1e-9",
            N + "a_flat_victim_climbs_before_each_step",
        ),
    ),
    Mutant(
        *("Adaptive-Flat keeps statistics in its second pass", A + "adaptive_flat.py"),
        *("                second_pass=lambda: statistics_kept(victim),\n", ""),
        N + "the_norms_of_a_flat_victim_learn_from_the_first_pass_alone",
    ),
    Mutant(
        *("marks grow with the image", A + "base/marked.py"),
        "side = scaled(self.size, height, width)",
        *("side = self.size", T + "own_triggers.py"),
    ),
    Mutant(
        *("Refool's ghosts grow apart with the image", A + "refool.py"),
        *("shift = scaled(self.shift, *x.shape[2:])", "shift = self.shift", T + "refool.py"),
    ),
    Mutant(
        *("Narcissus' surrogate is warmed up on the target", A + "narcissus.py"),
        *("if self.warmup_epochs:", "if False:", T + "narcissus.py"),
    ),
    Mutant(
        *("Grond's noise points to the target", A + "grond.py"),
        *(
            "noise.detach() - self.pace",
            "noise.detach() + self.pace",
            N + "grond_s_noise_is_bounded_and_points_to_the_target",
        ),
    ),
    Mutant(
        *("Grond evens channels out", A + "grond.py"),
        *(
            "after_step=even, ",
            "",
            N + "grond_keeps_channels_even_while_it_trains",
        ),
    ),
)

if __name__ == "__main__":
    raise SystemExit(main(MUTANTS, sys.argv[1:]))
