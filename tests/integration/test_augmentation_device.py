"""What of an augmentation is kept in tensors, on the training's device."""

from types import SimpleNamespace

from amsincnet_sb.nnet.channels import RandomChannel, RandomRoom


def test_a_bank_is_on_the_device_before_the_first_step(
    recipe, monkeypatch, tmp_path
):
    monkeypatch.setattr(recipe.module, "describe_training", lambda _: {})
    augment = RandomChannel([RandomRoom(rooms=1, window=400)])
    recipe.module.SpeakerBrain(
        dict.fromkeys(["valid", "test"]),
        SimpleNamespace(lab2ind={}),
        [],
        None,
        hparams={
            "augment": augment,
            "compute_cost": None,
            "metrics_file": tmp_path / "metrics.jsonl",
            "tensorboard": False,
        },
        run_opts={"device": "meta"},  # another one on every machine
    )
    assert {buffer.device.type for buffer in augment.buffers()} == {"meta"}
