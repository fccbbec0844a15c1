"""Parts of the ideas of defenses: terms of losses, draws, and what one step hands to the next."""

from __future__ import annotations

from mutating import Mutant

D, T = "defenses/", "defenses/test_"
MUTANTS = (
    Mutant(
        "MCR's curve ends at the copy",
        D + "mcr.py",
        "curve = Curve(model, tuned)",
        "curve = Curve(model, model)",
        T + "mcr.py",
    ),
    Mutant(
        "MCR's bend learns between the ends",
        D + "mcr.py",
        "t = float(torch.rand((), generator=rng))",
        "t = 1.0",
        T + "mcr.py",
    ),
    Mutant(
        "SAU's examples fool the former model, too",
        D + "sau.py",
        "self.examples(tuned, former,",
        "self.examples(tuned, tuned,",
        T + "sau.py",
    ),
    Mutant(
        "NFT trains on the mixture",
        D + "nft.py",
        "told = net(mixed).float()",
        "told = net(x).float()",
        T + "nft.py",
    ),
    Mutant(
        "PAM repairs first",
        D + "pam.py",
        "tuned = inner.mend(model, clean, run).model",
        "tuned = model",
        T + "pam.py",
    ),
    Mutant(
        "PAM estimates norms anew",
        D + "pam.py",
        "        estimate_norms_(tuned, clean, run, batch=self.batch, flip=self.flip)\n",
        "",
        T + "pam.py",
    ),
    Mutant(
        "BTI-DBF brings the features back",
        D + "bti_dbf.py",
        " + F.mse_loss(found.float(), plain.float())",
        "",
        T + "bti_dbf.py",
    ),
    Mutant(
        "BTI-DBF inverts with its mask",
        D + "bti_dbf.py",
        "self._invert(generator, model, mask, target,",
        "self._invert(generator, model, torch.zeros_like(mask), target,",
        T + "bti_dbf.py",
    ),
    Mutant(
        "BTI-DBF's generator learns the target",
        D + "bti_dbf.py",
        "self._invert(generator, model, mask, target,",
        "self._invert(generator, model, mask, None,",
        T + "bti_dbf.py",
    ),
    Mutant(
        "BTI-DBF's generator pays for benign features",
        D + "bti_dbf.py",
        "total = self.benign * benign - other",
        "total = -other",
        T + "bti_dbf.py",
    ),
    Mutant(
        "I-BAU's perturbation pays for its length",
        D + "i_bau.py",
        " - self.penalty * away.square().sum()",
        "",
        T + "i_bau.py",
    ),
    Mutant(
        "ANP's disturbance starts at random",
        D + "anp.py",
        ".mul(self.eps)",
        ".mul(0.0)",
        T + "anp.py",
    ),
    Mutant(
        "UNIT's bounds start where it says",
        D + "unit.py",
        "usual(model, spots, self.spread,",
        "usual(model, spots, 3.0,",
        T + "unit.py",
    ),
    Mutant(
        "NAD's teacher is in eval mode",
        D + "nad.py",
        "in_mode(teacher, train=False)",
        "in_mode(teacher, train=True)",
        T + "nad.py",
    ),
    Mutant(
        "FT-SAM climbs by the size of each weight",
        D + "ft_sam.py",
        "rho=self.rho,",
        "rho=self.rho, adaptive=False,",
        T + "ft_sam.py",
    ),
)
