"""The keys of a hyperparameter file that train.py reads."""

from torch import nn

from amsincnet_sb.utils.errors import InputError

__all__ = ["LATER", "NEEDED", "check_complete"]

#: Keys that files of earlier versions lack, with the values that do what was
#: done before there were such keys.
LATER = {
    "augment": nn.Identity(),
    "balance_speakers": False,
    "capture_step": True,
    "codecs": {},
    "compile_step": True,
    "cutoff_lr_factor": 1.0,
    "eval_precision": "auto",
    "filters_from": "",
    "margin_schedule": None,
    "minutes": 0,
    "precision": "auto",
    "sharpness_radius": 0.0,
    "splice_probability": 0.0,
    "start_from": "",
    "tensorboard": False,
}
#: Keys that every file must have.
NEEDED = """
    all_speakers batch_size batches_per_epoch checkpointer classifier
    compute_cost compute_scores curves_file data_folder embedding_model
    epoch_counter hop label_encoder_file lr_schedule manifest
    max_resident_gb metrics_file modules n_speakers number_of_epochs opt_class
    output_folder pretrained_folder released_evaluation sample_rate save_folder
    scale seed sentences_file skip_prep sync_batchnorm test_annotation
    train_annotation train_logger valid_annotation valid_interval
    validation_sentences window windows_per_batch
""".split()


def check_complete(hparams_file, options):
    """Raise InputError where a recipe lacks a key, which it names.

    Example
    -------
    >>> check_complete("my.yaml", dict.fromkeys(NEEDED[1:]))
    Traceback (most recent call last):
        ...
    amsincnet_sb.utils.errors.InputError: my.yaml has no key `all_speakers`, ...
    """
    missing = [f"`{key}`" for key in NEEDED if key not in options]
    if missing:
        keys = "key" if len(missing) == 1 else "keys"
        raise InputError(
            f"{hparams_file} has no {keys} {', '.join(missing)}, which training "
            "needs; copy the lines from am_sincnet.yaml (`amsincnet hparams "
            "--copy FOLDER` gives it)."
        )
