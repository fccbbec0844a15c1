"""The demo's wiring, with networks that learn nothing; its claims are tested in slow/."""

from __future__ import annotations

import json

from unbackdoor.cli import demo


def test_the_defender_never_saw_what_the_victim_learned(run, tmp_path, monkeypatch):
    from unbackdoor.attacks.badnets import BadNets
    from unbackdoor.defenses.uat import UAT

    monkeypatch.setattr(demo, "WIDTH", 2)
    monkeypatch.setattr(demo, "ATTACK", {**demo.ATTACK, "epochs": 1})
    seen = {}
    plant, repair = BadNets.plant, UAT.repair

    def planting(self, model, train, run, resume=None):
        seen["victim"] = train
        return plant(self, model, train, run, resume)

    def repairing(self, model, clean, run):
        seen["defender"] = clean
        few = {"epochs": 1, "enough_images": 1, "settling": 0}
        return repair(self.model_copy(update=few), model, clean, run)

    monkeypatch.setattr(BadNets, "plant", planting)
    monkeypatch.setattr(UAT, "repair", repairing)
    done = run("demo", "--out", tmp_path / "demo", "--json", "--device", "cpu")
    assert done.code == 0, done.err
    assert len(seen["victim"]) == 896 and len(seen["defender"]) == 448
    theirs, ours = (
        {image.numpy().tobytes() for image in images.pixels} for images in seen.values()
    )
    assert not theirs & ours
    record = json.loads((tmp_path / "demo" / "record.json").read_text())
    assert record == done.json and record["kind"] == "demo"
    assert record["before"]["acc"]["total"] == record["test"]["images"] == 445
    assert record["triggered"]["target"] == 0 and record["examples"][0]["clean"]
    assert record["attack"]["parameters"]["rate"] == 0.2
