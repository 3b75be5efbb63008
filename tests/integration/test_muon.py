"""Training with Muon in place of a recipe's own optimizer."""

import pytest


def test_interrupted_it_ends_as_if_nothing_had_happened(
    recipe, tmp_path, monkeypatch
):
    file = tmp_path / "muon.yaml"
    text = (recipe.folder / "hparams" / "am_sincnet.yaml").read_text()
    for old, new in (
        ("!name:torch.optim.AdamW", "!name:amsincnet_sb.nnet.muon.Muon"),
        ("fused: True", "linears: True"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    file.write_text(text)
    options = {"ckpt_interval_steps": 1}
    through = recipe(file, tmp_path / "through", **options)
    brain = recipe.module.SpeakerBrain
    start = brain.on_fit_batch_start

    def stop(self, *arguments):
        """In the middle of the second epoch."""
        if self.optimizer_step == 4:
            raise KeyboardInterrupt
        start(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(brain, "on_fit_batch_start", stop)
        recipe(file, tmp_path / "resumed", **options)
    resumed = recipe(file, tmp_path / "resumed", **options)
    assert recipe.state(resumed) == recipe.state(through)
    assert recipe.metrics(resumed) == recipe.metrics(through)
    # Two convolutions and two fully connected layers, of the network alone.
    kept = recipe.state(through)
    assert sum("momentum_buffer" in name for name in kept) == 4
    assert sum("exp_avg_sq" in name for name in kept) > 4
