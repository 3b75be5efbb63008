"""Training with Muon in place of a recipe's own optimizer."""


def test_interrupted_it_ends_as_if_nothing_had_happened(
    recipe, resumed_exactly, tmp_path
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
    kept = resumed_exactly(file)
    # Two convolutions and two fully connected layers, of the network alone.
    assert sum("momentum_buffer" in name for name in kept) == 4
    assert sum("exp_avg_sq" in name for name in kept) > 4
