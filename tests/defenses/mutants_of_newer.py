"""Core ideas of BAN, NFT, IMS, BTI-DBF and PAM."""

from __future__ import annotations

from mutating import Mutant

D, T = "defenses/", "defenses/test_"
MUTANTS = (
    Mutant(
        "BAN trains under the noise",
        D + "ban.py",
        "+ self.weight * noisy",
        "+ 0.0 * noisy",
        T + "ban.py",
    ),
    Mutant(
        "BAN's noise moves no statistics",
        D + "ban.py",
        "with statistics_kept(tuned):",
        "if True:",
        T + "ban.py",
    ),
    Mutant(
        "the worst noise climbs",
        "training/neuron_noise.py",
        "d.detach() + step * slope.sign()",
        "d.detach() - step * slope.sign()",
        "training/test_neuron_noise.py",
    ),
    Mutant(
        "NFT mixes images",
        D + "nft.py",
        "share * x + (1 - share) * x[other], y[other]",
        "x, y",
        T + "nft.py",
    ),
    Mutant(
        "NFT's masks have a floor that falls with depth",
        D + "nft.py",
        "self.floor * math.exp(-self.decay * depth)",
        "self.floor",
        T + "nft.py",
    ),
    Mutant(
        "NFT pays for masks",
        D + "nft.py",
        "return right + price *",
        "return right + 0 *",
        T + "nft.py",
    ),
    Mutant(
        "IMS' changes fool the inverse network",
        D + "ims.py",
        "loss = agreement(gated(changed, inverse=True), turned)",
        "loss = -agreement(gated(changed, inverse=True), turned)",
        T + "ims.py",
    ),
    Mutant(
        "IMS' changes turn the answer",
        D + "ims.py",
        "loss = loss + disagreement(turned, answers)",
        "pass",
        T + "ims.py",
    ),
    Mutant(
        "IMS' masked network resists them",
        D + "ims.py",
        "+ agreement(gated(moved), answers)",
        "",
        T + "ims.py",
    ),
    Mutant(
        "IMS' inverse is the other way round",
        D + "ims.py",
        "sign = -1.0 if inverse else 1.0",
        "sign = 1.0",
        T + "ims.py",
    ),
    Mutant(
        "BTI-DBF's mask marks what clean images need",
        D + "bti_dbf.py",
        "right - F.cross_entropy(answers_of(head, features - benign)",
        "right + F.cross_entropy(answers_of(head, features - benign)",
        T + "bti_dbf.py",
    ),
    Mutant(
        "BTI-DBF's generator moves the other features",
        D + "bti_dbf.py",
        "total = 0.01 * benign - other",
        "total = 0.01 * benign",
        T + "bti_dbf.py",
    ),
    Mutant(
        "BTI-DBF bounds the changes",
        D + "bti_dbf.py",
        "if change > self.most_change or benign > self.most_benign:",
        "if False:",
        T + "bti_dbf.py",
    ),
    Mutant(
        "BTI-DBF unlearns its trigger",
        D + "bti_dbf.py",
        "torch.cat([generator(x[:moved]).to(x), x[moved:]])",
        "x",
        T + "bti_dbf.py",
    ),
    Mutant(
        "PAM's gradient is taken on the way back",
        D + "pam.py",
        "            weight.add_(way * reach)\n",
        "            pass\n",
        T + "pam.py",
    ),
    Mutant(
        "PAM trains on the trigger",
        D + "pam.py",
        "x = torch.cat([trigger(x[:moved]).to(x), x[moved:]])",
        "pass",
        T + "pam.py",
    ),
)
