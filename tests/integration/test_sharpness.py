"""Training with sharpness-aware minimisation."""


def test_interrupted_it_ends_as_if_nothing_had_happened(
    recipe, resumed_exactly, tmp_path
):
    kept = resumed_exactly("sinc_tdnn.yaml", sharpness_radius=0.05)
    plain = recipe("sinc_tdnn.yaml", tmp_path / "plain")
    assert recipe.state(plain) != kept


def test_options_that_change_the_step_are_refused(refused):
    words = refused(
        "sinc_tdnn.yaml", sharpness_radius=0.05, grad_accumulation_factor=2
    )
    assert "sharpness_radius is 0.05 and cannot be combined" in words
    assert "--grad_accumulation_factor; leave one of them out" in words
