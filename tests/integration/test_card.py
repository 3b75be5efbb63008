"""The card that a training leaves beside its model."""


def test_the_card_of_a_training(finished, corpus, recipe):
    text = (finished / "pretrained" / "README.md").read_text()
    last = recipe.metrics(finished)[-1]
    assert "Generated speech" in text and "TIMIT" not in text
    assert "| train | 4 | 20 |" in text and "| test | 4 | 12 |" in text
    assert f"| test | {last['step']} | {last['frame_error']:.2f} |" in text
    assert str(corpus.parent) not in text
