"""Core ideas of the defenses that silence, mask or bound channels."""

from __future__ import annotations

from mutating import Mutant

D, T = "defenses/", "defenses/test_"
MUTANTS = (
    Mutant(
        "fine-pruning hides features before it tunes",
        D + "fine_pruning.py",
        "        hide_in(model, mask)\n",
        "",
        T + "fine_pruning.py",
    ),
    Mutant(
        "fine-pruning takes the quietest",
        D + "fine_pruning.py",
        "activation.argsort(stable=True)",
        "activation.neg().argsort(stable=True)",
        T + "fine_pruning.py",
    ),
    Mutant(
        "fine-pruning keeps them hidden",
        D + "fine_pruning.py",
        "after_step=lambda tuned: hide_in(tuned, mask)",
        "after_step=None",
        T + "fine_pruning.py",
    ),
    Mutant(
        "ANP's masks meet the disturbance",
        D + "anp.py",
        "self.alpha * plain + (1 - self.alpha) * disturbed",
        "plain",
        T + "anp.py",
    ),
    Mutant(
        "ANP's disturbance climbs",
        D + "anp.py",
        "part.detach() + eps * slope.sign()",
        "part.detach() - eps * slope.sign()",
        T + "anp.py",
    ),
    Mutant(
        "ANP takes its steps",
        D + "anp.py",
        "math.ceil(self.steps / math.ceil(len(learning) / self.batch))",
        "2",
        T + "anp.py",
    ),
    Mutant(
        "CLP takes the largest singular value",
        D + "clp.py",
        "ord=2)",
        'ord="fro")',
        T + "clp.py",
    ),
    Mutant(
        "CLP scales by the norm",
        D + "clp.py",
        "largest * weight / (norm.running_var + norm.eps).sqrt()",
        "largest",
        T + "clp.py",
    ),
    Mutant(
        "RNP stops at the floor",
        D + "rnp.py",
        "            until=lambda now: accuracy(now, clean, run).value <= self.floor,\n",
        "",
        T + "rnp.py",
    ),
    Mutant(
        "RNP unlearns",
        D + "rnp.py",
        "objective=_times(-1.0)",
        "objective=_times(1.0)",
        T + "rnp.py",
    ),
    Mutant(
        "RNP scores over time",
        D + "rnp.py",
        "torch.stack([masks[norm] for masks in seen]).mean(0)",
        "seen[-1][norm]",
        T + "rnp.py",
    ),
    Mutant(
        "BNP looks in eval mode",
        D + "bnp.py",
        "in_mode(model, train=False)",
        "in_mode(model, train=True)",
        T + "bnp.py",
    ),
    Mutant(
        "BNP pools the moments",
        "network/moments.py",
        "self.count += flat.shape[1]",
        "self.count = flat.shape[1]",
        T + "bnp.py",
    ),
    Mutant(
        "UNIT pays for its bounds",
        D + "unit.py",
        "price.now * size()",
        "0 * size()",
        T + "unit.py",
    ),
    Mutant(
        "UNIT's price follows the accuracy",
        D + "unit.py",
        "self.now = max(2 * self.now, self.start) if good else self.now / 2**1.5",
        "pass",
        T + "unit.py",
    ),
    Mutant(
        "UNIT keeps what is accurate",
        D + "unit.py",
        " and accuracy(bounded, held, run).value >= floor",
        "",
        T + "unit.py",
    ),
    Mutant(
        "UNIT's bounds cut",
        "network/inserts.py",
        "return torch.minimum(y, limit.to(y.dtype))",
        "return y + 0 * limit.to(y.dtype)",
        T + "unit.py",
    ),
    Mutant(
        "FMP prunes the lowest",
        D + "fmp.py",
        "rankings[layer.name].suspects(layer.channels // self.p)",
        "~rankings[layer.name].suspects(layer.channels - layer.channels // self.p)",
        T + "fmp.py",
    ),
    Mutant(
        "FMP holds channels silent",
        D + "fmp.py",
        "lambda tuned: silence_(tuned, layers, mask)",
        "lambda tuned: None",
        T + "fmp.py",
    ),
)
