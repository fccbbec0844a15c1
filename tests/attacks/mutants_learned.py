"""Mutants of what teaches a trigger: its victim or a model of its own; `mutants` tries them."""

from __future__ import annotations

from mutating import Mutant

A, T = "attacks/", "attacks/test_"
OBEYED = T + "controlled.py::test_a_generator_learns_what_a_victim_that_stays_as_it_is_obeys"
OF_EPOCHS = T + "surrogate.py::test_a_trigger_is_learned_on_a_surrogate_of_so_many_epochs"
LEARNED = (
    Mutant(
        *("generators learn with the victim", A + "base/controlled.py"),
        *("adam(joint.parts.parameters(), parts_lr)", "adam(joint.parts.parameters(), 0.0)"),
        OBEYED,
    ),
    Mutant(
        *("LIRA's generator learns", A + "lira.py"),
        "lambda x: self._changed(generator, x), x, y)",
        *("lambda x: self._changed(generator, x).detach(), x, y)", OBEYED),
    ),
    Mutant(
        *("input-aware patterns are taught to trigger", A + "input_aware.py"),
        "torch.lerp(x[marked], pattern[marked], mask[marked])",
        *("torch.lerp(x[marked], pattern[marked].detach(), mask[marked])", OBEYED),
    ),
    Mutant(
        *("input-aware's source covers keep their label", A + "input_aware.py"),
        "goals[chosen] = self.goals(y[chosen], logits.shape[1])",
        *("goals[marked] = self.goals(y[marked], logits.shape[1])", T + "input_aware.py"),
    ),
    Mutant(
        *("input-aware has source covers", A + "input_aware.py"),
        *("marked = torch.cat([chosen, covers])", "marked = chosen", T + "input_aware.py"),
    ),
    *(
        Mutant(
            *(f"the surrogate of {name} is trained", A + f"{name}.py"),
            "self.surrogate(model, train, run, self.clean_epochs)",
            *("self.surrogate(model, train, run, 0)", f"{OF_EPOCHS}[{kind}]"),
        )
        for name, kind in (
            ("grond", "Grond"),
            ("label_consistent", "LabelConsistent"),
            ("lf", "LF"),
            ("trojannn", "TrojanNN"),
        )
    ),
    Mutant(
        *("Narcissus' noise follows the lead", A + "narcissus.py"),
        "_margin(net((x + noise).clamp(0, 1)).float(), y).mean()",
        *("F.cross_entropy(net((x + noise).clamp(0, 1)).float(), y)", T + "narcissus.py"),
    ),
)
