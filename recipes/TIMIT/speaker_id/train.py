#!/usr/bin/env python3
"""Recipe for speaker identification on TIMIT with AM-SincNet.

The network looks at 200 ms of the raw waveform at a time and is trained with
an additive-margin softmax; a test sentence is decided by all its windows
together.

To run this recipe, do the following:
> python train.py hparams/am_sincnet_m005.yaml --data_folder=/path/to/TIMIT
or, from any folder:
> amsincnet train am_sincnet_m005 --data_folder=/path/to/TIMIT

To train on your own recordings, prepare them with `amsincnet prepare`, which
prints the command.

To read the code, first scroll to the bottom to see the "main" code.
"""

import amsincnet_sb.utils.imports  # isort: skip  # noqa: F401
import os
import sys
import time
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.autocast import AMPConfig
from timit_prepare import prepare_timit

from amsincnet_sb.dataio.audio import read_audio
from amsincnet_sb.dataio.audio_store import open_audio
from amsincnet_sb.dataio.batches import RandomChunks, SlidingWindows
from amsincnet_sb.dataio.codecs import coded_versions
from amsincnet_sb.dataio.corpus import find_manifests
from amsincnet_sb.dataio.label_file import keep_labels
from amsincnet_sb.dataio.manifest import manifest_items
from amsincnet_sb.inference.additions import fingerprint
from amsincnet_sb.inference.model_card import describe_errors, describe_training
from amsincnet_sb.inference.pretrained import read_pretrained, write_pretrained
from amsincnet_sb.lobes.frozen import compile_evaluation, for_evaluation
from amsincnet_sb.nnet.muon import is_muon
from amsincnet_sb.nnet.optimizers import parameter_groups
from amsincnet_sb.plots import plot_curves
from amsincnet_sb.training.arguments import parse_arguments
from amsincnet_sb.training.brain import CapturedBrain
from amsincnet_sb.training.budget import (
    Budget,
    epochs_or_minutes,
    process_start,
)
from amsincnet_sb.training.checks import (
    check_length,
    check_lists,
    check_network,
    check_profiling,
    check_run_options,
    check_sharpness,
    given_run_options,
)
from amsincnet_sb.training.device import best_precisions, has_bfloat16
from amsincnet_sb.training.distributed import (
    add_over_ranks,
    on_main,
    rank,
    sole_run,
    world_size,
)
from amsincnet_sb.training.hparams import (
    load_recipe,
    plain_options,
    save_hyperparams,
)
from amsincnet_sb.training.kernels_ahead import compile_ahead, end_ahead
from amsincnet_sb.training.metrics import SentenceErrors
from amsincnet_sb.training.metrics_log import MetricsLog
from amsincnet_sb.training.permitted import check_options
from amsincnet_sb.training.recipe_keys import check_complete
from amsincnet_sb.training.run_record import (
    RunRecord,
    describe_lists,
    manifests_put_back,
)
from amsincnet_sb.training.starting_point import StartingFilters, StartingPoint
from amsincnet_sb.training.tensorboard import open_tensorboard
from amsincnet_sb.utils.errors import (
    InputError,
    as_input_error,
    exit_on_input_error,
)

logger = sb.utils.logger.get_logger(__name__)

HINTS = {
    "data_folder": "give the folder of TIMIT with --data_folder=/path/to/TIMIT"
    " (beside --manifest, the folder that `amsincnet prepare` named), or try it "
    "on speech that `amsincnet demo-corpus TIMIT` generates."
}


class SpeakerBrain(CapturedBrain):
    """Class that manages the training loop. See speechbrain.core.Brain.

    Arguments
    ---------
    datasets : dict
        From dataio_prep.
    label_encoder : CategoricalEncoder
        From dataio_prep.
    starts : list
        From find_starts.
    budget : Budget or None
        Where the number of steps is still to be measured.
    **kwargs : dict
        See speechbrain.core.Brain.
    """

    totals_names = ("wrong", "windows")

    def __init__(self, datasets, label_encoder, starts, budget, **kwargs):
        super().__init__(**kwargs)
        self.starts = starts
        self.budget = budget
        self.eval_sets = {
            sb.Stage.VALID: datasets["valid"],
            sb.Stage.TEST: datasets["test"],
        }
        self.held_out = datasets["valid"] is not datasets["test"]
        self.ahead = None  # a process that compiles for training,
        self.compiling = None  # and a thread, for evaluation
        self.tested = None, None  # steps, figures: the last of the test set
        self.speakers = list(label_encoder.lab2ind)
        self.history = MetricsLog(self.hparams.metrics_file)
        self.train_stats = {}
        self.own_cosine = None  # until the first evaluation
        # A debug run leaves a real run's results as they are.
        keeps = not self.debug or self.debug_persistently
        self.writes_results = keeps and sb.utils.distributed.if_main_process()
        if self.writes_results:
            # As the lists are now: at the end they may be gone.
            self.described = describe_training(self.hparams)
        self.board = None
        if self.hparams.tensorboard and keeps:
            self.board = open_tensorboard(self.hparams.output_folder)
        augment, cost = self.hparams.augment, self.hparams.compute_cost
        for part in (augment, cost):
            if isinstance(part, torch.nn.Module):
                part.to(self.device)
        if isinstance(cost, torch.nn.Module) and cost.state_dict():
            # It learns from batches itself.
            self.modules["compute_cost"] = cost
            self.checkpointer.add_recoverable("compute_cost", cost)
        bfloat16 = "bf16" in (self.precision, self.eval_precision)
        if bfloat16 and not has_bfloat16(self.device):
            logger.warning(
                "This device has no bfloat16 matmuls: fp32 is far faster."
            )
        self.started = time.time()

    def compute_forward(self, batch, stage):
        """Computes the speakers' cosines or log-probabilities.

        A batch has random chunks in training, else the windows of whole
        sentences; the result is ``[windows, 1, speakers]``.
        """
        wavs, _ = batch.to(self.device).sig
        if stage != sb.Stage.TRAIN:
            return self.modules["classifier"](self.embed(wavs))
        embeddings = self.modules["embedding_model"](self.hparams.augment(wavs))
        return self.modules["classifier"](embeddings)

    def compute_objectives(self, predictions, batch, stage):
        """Computes the loss, and counts errors."""
        labels, lens = batch.spk_id_encoded
        cost = self.hparams.compute_cost(predictions, labels, lens)
        if stage == sb.Stage.TRAIN:
            wrong = predictions.detach().argmax(-1) != labels
            self.totals.add(wrong=wrong.sum(), windows=len(labels))
        else:
            scores = self.hparams.compute_scores(predictions)
            self.errors.append(batch.utterance, scores)
            self.own_scores += predictions.squeeze(1).gather(1, labels).sum()
            # The last batch is a small one.
            self.costs += cost * len(labels)
            self.windows_heard += len(labels)
        return cost

    def init_optimizers(self):
        """Gets called by on_fit_start: makes the optimizer's groups."""
        factor, make = self.hparams.cutoff_lr_factor, self.hparams.opt_class
        hidden = self.modules["embedding_model"] if is_muon(make) else None
        groups = parameter_groups(self.modules, factor, hidden)
        self.opt_class = lambda parameters: make(groups)
        super().init_optimizers()

    def on_fit_start(self):
        """Gets called once before training, recovers a checkpoint."""
        super().on_fit_start()
        if self.optimizer_step == 0:
            folders = self.hparams.start_from, self.hparams.filters_from
            if any(folders) and not self.starts:  # every checkpoint is damaged
                raise InputError(
                    f"{' or '.join(filter(None, folders))}, which the run "
                    "started from, does not exist."
                )
            for start in self.starts:
                start.load(
                    self.hparams.embedding_model,
                    self.hparams.classifier,
                    self.speakers,
                    self.train_sampler,
                )
        if self.budget is not None and self.optimizer_step == 0:
            self.choose_steps()
        if self.writes_results:
            self.history.rewind(self.optimizer_step)

    def choose_steps(self):
        """Give the run as many steps as its minutes have room for."""
        chunks = self.train_sampler
        during, behind = self.eval_sets.items()  # each a stage and its set
        recipe = self.budget.spend(
            self.measure_step(chunks, 0.6 * self.budget.minutes),
            self.measure_evaluation(*during),
            # Else training ends with it, see evaluate().
            self.measure_evaluation(*behind) if self.held_out else 0.0,
            vars(self.hparams),
        )
        chunks.batches_per_epoch = recipe["batches_per_epoch"]
        self.hparams.epoch_counter.limit = recipe["epoch_counter"].limit
        for key in ("number_of_epochs", "lr_schedule", "margin_schedule"):
            setattr(self.hparams, key, recipe[key])

    def on_captured(self):
        """Gets called when training is under way: evaluation is prepared."""
        if self.ahead is not None:
            end_ahead(self.ahead)
        windows = self.eval_sets[sb.Stage.VALID]
        if self.budget is None and len(windows):  # else it has been measured
            self.compiling = compile_evaluation(
                self.hparams.embedding_model,
                windows[0].sig.data,
                AMPConfig.from_name(self.eval_precision).dtype,
            )

    def on_fit_batch_start(self, batch, should_step):
        """Gets called before every step: sets seed, learning rate, margin."""
        self.seed_step(self.hparams.seed)
        step = self.optimizer_step
        lr = self.hparams.lr_schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
        self.set_margin(step)

    def set_margin(self, step):
        """Set the loss's margin to that of a step, counted from 0."""
        schedule, cost = self.hparams.margin_schedule, self.hparams.compute_cost
        if schedule is not None and hasattr(cost, "set_margin"):
            cost.set_margin(schedule(step))

    def on_stage_start(self, stage, epoch=None):
        """Gets called at the beginning of each stage."""
        super().on_stage_start(stage, epoch)
        if stage != sb.Stage.TRAIN:
            if self.compiling is not None:
                self.compiling.join()
            # That of the last step, after a checkpoint too.
            self.set_margin(max(0, self.optimizer_step - 1))
            windows = self.eval_sets[stage]
            self.errors = SentenceErrors(
                windows.audio.labels, windows.empty_row
            ).to(self.device)
            # Mean cosine of the true speaker, a scale for enrolled ones.
            self.own_scores = torch.zeros(()).double().to(self.device)
            self.costs = torch.zeros_like(self.own_scores)
            self.windows_heard = 0
            dtype = AMPConfig.from_name(self.eval_precision).dtype
            self.embed = for_evaluation(self.hparams.embedding_model, dtype)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Gets called at the end of each stage."""
        if stage == sb.Stage.TRAIN:
            totals = self.epoch_totals()
            if not totals["steps"]:  # the limit of steps was reached before
                return
            self.train_stats = {
                "loss": totals["loss"] / totals["steps"],
                "frame_error": 100 * totals["wrong"] / totals["windows"],
            }
            return

        epoch = self.hparams.epoch_counter.current
        test = stage == sb.Stage.TEST or not self.held_out
        split = "test" if test else "valid"
        loss = self.costs.item() / max(1, self.windows_heard)
        loss = self.mean_over_ranks(loss, self.windows_heard)
        stats = {"loss": loss, **self.errors.reduce().summarize()}
        own = add_over_ranks(self.own_scores) / self.errors.rows.sum()
        self.own_cosine = own.item()
        self.report(epoch, split, stats)
        if test:
            self.tested = self.optimizer_step, stats
        if stage == sb.Stage.TEST:
            self.write_sentences()
        elif not self.ended_within_epoch:  # else it has been saved
            self.checkpointer.save_and_keep_only(
                meta={"epoch": epoch, **stats}, num_to_keep=1
            )

    def evaluate(self, *args, **kwargs):
        """Evaluate the last checkpoint; see speechbrain.core.Brain.

        Where training has just ended with the evaluation of the same weights
        on the same utterances, its figures are written once more and nothing
        is computed again.
        """
        step, stats = self.tested
        if step != self.optimizer_step:
            return super().evaluate(*args, **kwargs)
        self.on_evaluate_start()
        self.report(self.hparams.epoch_counter.current, "test", stats)
        self.write_sentences()
        return stats["loss"]

    def write_sentences(self):
        """Write the decision of each test utterance."""
        if self.writes_results:
            self.errors.write_csv(
                self.hparams.sentences_file,
                self.eval_sets[sb.Stage.TEST].audio.ids,
                self.speakers,
            )

    def report(self, epoch, split, stats):
        """Write an evaluation to the logs and metrics.jsonl.

        Arguments
        ---------
        epoch : int
            Epochs trained.
        split : str
            Name of the evaluated set.
        stats : dict
            loss, frame_error, sentence_error.
        """
        meta = {"epoch": epoch, "step": self.optimizer_step}
        self.hparams.train_logger.log_stats(
            {**meta, **({"debug": True} if self.debug else {})},
            train_stats={k: f"{v:.3f}" for k, v in self.train_stats.items()},
            **{f"{split}_stats": {k: f"{v:.3f}" for k, v in stats.items()}},
        )
        if self.board is not None:
            self.board.log_stats(
                meta, self.train_stats, **{f"{split}_stats": stats}
            )
        if self.writes_results:
            self.history.append(
                **meta,
                split=split,
                **{f"train_{k}": v for k, v in self.train_stats.items()},
                **stats,
                seconds=round(time.time() - self.started, 3),
                **self.fallback,
            )

    def on_evaluate_start(self, max_key=None, min_key=None):
        """Gets called before the test stage, loads the last checkpoint.

        The keys are not used: nothing is chosen by an error.
        """
        found = self.checkpointer.recover_if_possible()
        if found is None and self.optimizer_step == 0:
            raise InputError(
                f"{self.hparams.save_folder} holds no checkpoint to evaluate; "
                "train first, without --test_only."
            )
        if found is not None and not found.meta["end-of-epoch"]:
            # SpeechBrain goes back to the epoch before, to enter it again.
            self.hparams.epoch_counter.current += 1
        if not self.test_only:
            # A kill may have left those that the last one replaced.
            self.checkpointer.delete_checkpoints(num_to_keep=1)

    def write_model(self):
        """Write the learning curves and the trained model."""
        if not self.writes_results:
            return
        per_epoch = self.train_sampler.batches_per_epoch
        steps = per_epoch * self.hparams.number_of_epochs
        if self.test_only and self.optimizer_step < steps:
            logger.info(
                "No model is written: the training is at step %d of %d.",
                self.optimizer_step,
                steps,
            )
            return
        plot_curves(self.hparams.metrics_file, self.hparams.curves_file)
        # Last: by it a sweep knows that a run is done.
        write_pretrained(
            self.hparams.pretrained_folder,
            self.hparams.embedding_model,
            self.hparams.classifier,
            self.speakers,
            self.hparams.scale,
            own_cosine=self.own_cosine,
            training=self.described
            | {"errors": describe_errors(self.history.records())},
        )
        logger.info("Trained model: %s", self.hparams.pretrained_folder)

    def _fit_valid(self, valid_set, epoch, enable):
        """Evaluate (and save) every few epochs and after the last."""
        last = (
            epoch == self.hparams.number_of_epochs
            or self._optimizer_step_limit_exceeded
        )
        if last or epoch % self.hparams.valid_interval == 0 or self.debug:
            super()._fit_valid(valid_set, epoch, enable)


def dataio_prep(hparams, device):
    """Makes the data sets of the manifests.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.
    device : str
        Where audio in memory is kept.

    Returns
    -------
    datasets : dict
        "train", "valid" and "test", whose items are batches.
    label_encoder : CategoricalEncoder
        Speakers in the order of the training manifest.
    """

    @sb.utils.data_pipeline.takes("wav", "start", "stop")
    @sb.utils.data_pipeline.provides("sig")
    def audio_pipeline(wav, start, stop):
        """An utterance, from its start to its stop in the recording."""
        return read_audio(wav, int(start), int(stop), hparams["sample_rate"])

    label_encoder = sb.dataio.encoder.CategoricalEncoder()

    @sb.utils.data_pipeline.takes("spk_id")
    @sb.utils.data_pipeline.provides("spk_id_encoded")
    def label_pipeline(spk_id):
        """Label of the speaker."""
        return label_encoder.encode_label(spk_id)

    def utterances(annotation):
        """A manifest as a data set."""
        return sb.dataio.dataset.DynamicItemDataset(
            manifest_items(annotation, hparams["data_folder"]),
            dynamic_items=[audio_pipeline, label_pipeline],
            output_keys=["id", "wav", "sig", "spk_id_encoded"],
        )

    def audio(dataset, versions=1):
        """The audio in memory, or in its files if its versions are too much."""
        return open_audio(
            dataset,
            label_encoder.lab2ind,
            hparams["sample_rate"],
            hparams["max_resident_gb"] / versions,
            device,
        )

    def windows(annotation):
        """The windows of all utterances of a manifest."""
        return SlidingWindows(
            audio(utterances(annotation)),
            hparams["window"],
            hparams["hop"],
            hparams["windows_per_batch"],
            hparams["released_evaluation"],
            rank(),
            world_size(),
        )

    train = utterances(hparams["train_annotation"])
    label_encoder.update_from_didataset(train, "spk_id")
    label_encoder.expect_len(hparams["n_speakers"])
    resumed = bool(hparams["checkpointer"].list_checkpoints())
    on_main(keep_labels, hparams["label_encoder_file"], label_encoder, resumed)

    recordings = audio(train, 1 + len(hparams["codecs"]))
    datasets = {
        "train": RandomChunks(
            recordings,
            hparams["window"],
            hparams["batch_size"],
            hparams["batches_per_epoch"],
            hparams["seed"],
            rank(),
            world_size(),
            hparams["balance_speakers"],
            hparams["splice_probability"],
            coded_versions(
                recordings, hparams["codecs"], hparams["sample_rate"]
            ),
        ),
        "test": windows(hparams["test_annotation"]),
    }
    if hparams["validation_sentences"] > 0:
        datasets["valid"] = windows(hparams["valid_annotation"])
    else:
        logger.info(
            "No validation set: the test set is evaluated during training, "
            "and nothing is chosen by it (--validation_sentences=1 holds out "
            "one training utterance of each speaker)."
        )
        datasets["valid"] = datasets["test"]
    return datasets, label_encoder


def prepare_corpus(options):
    """Manifests to train on: those of TIMIT, or prepared ones.

    Arguments
    ---------
    options : dict
        Plain values of the hyperparameter file.

    Returns
    -------
    prepared : dict
        Hyperparameters that depend on the corpus.
    lists : dict
        What the manifests are; see describe_lists.
    report : list of str
        About the corpus, for the log.
    """
    names = ("train_annotation", "valid_annotation", "test_annotation")
    prepared = {name: options[name] for name in names}
    if options["manifest"]:
        corpus, found = find_manifests(
            options["manifest"], options["validation_sentences"]
        )
        prepared.update(found)
    else:
        corpus = on_main(
            prepare_timit,
            data_folder=options["data_folder"],
            **prepared,
            all_speakers=options["all_speakers"],
            validation_sentences=options["validation_sentences"],
            skip_prep=options["skip_prep"],
        )
    lists = on_main(describe_lists, {**options, **prepared})
    prepared["n_speakers"] = lists["train"]["speakers"]
    if prepared["n_speakers"] < 2:
        raise InputError(
            f"{prepared['train_annotation']} has one speaker alone; identifying "
            "speakers needs at least two."
        )
    return prepared, lists, corpus.report() if corpus else []


def find_starts(options):
    """The trained models to start from, and the fingerprint of their weights.

    Arguments
    ---------
    options : dict
        Plain values of the hyperparameter file.

    Returns
    -------
    starts : list
        A StartingPoint of start_from, StartingFilters of filters_from; none
        where a run that is resumed does not need them any more.
    weights : str or None
        For RunRecord.keep.
    """
    folders = options["start_from"], options["filters_from"]
    resumed = any(Path(options["save_folder"]).glob("CKPT*"))
    if resumed and not all(os.path.exists(f) for f in folders if f):
        return [], None
    starts, weights = [], []
    if folders[0]:
        network, classifier, config = read_pretrained(folders[0])
        speakers = config["speakers"]
        starts.append(StartingPoint(folders[0], network, classifier, speakers))
        weights.append(fingerprint(network, classifier))
    if folders[1]:
        starts.append(StartingFilters(folders[1], *read_pretrained(folders[1])))
        weights.append(f"filters {fingerprint(starts[-1].sinc)}")
    return starts, ", ".join(weights)


def main(started=None):
    """Prepare the corpus, train, evaluate, and write the model out.

    Minutes that the run may take count from ``started``, or now.
    """
    started = started or time.time()
    # 1. Command line and hyperparameters; no object is made of them yet
    hparams_file, run_opts, overrides = parse_arguments(sys.argv[1:])
    options = plain_options(hparams_file, overrides, HINTS)
    check_complete(hparams_file, options)
    check_options(options)
    check_lists(options, overrides)
    epochs_or_minutes(options, overrides)
    run_opts = check_run_options(run_opts)
    overrides.update(given_run_options(run_opts, options))
    check_sharpness(options["sharpness_radius"], run_opts.__getitem__)
    sb.utils.distributed.ddp_init_group(run_opts)

    with sole_run(options["output_folder"]):
        # 2. Corpus, and objects (of hparams["recipe"] where a file includes
        #    another); a wrong corpus or another run's folder is refused here
        with manifests_put_back(options):
            starts, weights = on_main(find_starts, options)
            prepared, lists, report = prepare_corpus(options)
            overrides.update(prepared)
            record = RunRecord(hparams_file, run_opts, world_size())
            overrides.update(on_main(record.steps_of_minutes, options))
            hparams = load_recipe(hparams_file, overrides)
            for start in starts:
                on_main(start.check, hparams["embedding_model"])
            if record.real:
                on_main(check_length, hparams)
            on_main(check_profiling, hparams, run_opts.__getitem__)
            on_main(record.keep, overrides, lists, weights)

        # 3. Results folder
        sb.create_experiment_directory(hparams["output_folder"])
        if record.real:
            on_main(save_hyperparams, hparams_file, overrides)
        for line in report:
            logger.info(line)

        # 4. Precision, whose kernels are compiled beside what follows
        check_network(hparams)
        best = best_precisions(run_opts["device"])
        if hparams["precision"] == "auto":
            hparams["precision"] = best["precision"]
        if hparams["eval_precision"] == "auto":
            hparams["eval_precision"] = best["eval_precision"]
        ahead = None
        trains = not run_opts["test_only"]
        if trains and hparams["capture_step"] and rank() == 0:
            ahead = compile_ahead(
                hparams["embedding_model"],
                hparams["batch_size"],
                AMPConfig.from_name(hparams["precision"]).dtype,
                run_opts["device"],
            )

        # 5. Data sets; an item is a whole batch, drawn by (seed, epoch, item)
        datasets, label_encoder = dataio_prep(hparams, run_opts["device"])
        whole = {"batch_size": None}
        train_loader = sb.dataio.dataloader.make_dataloader(
            datasets["train"], **whole
        )
        hparams["checkpointer"].add_recoverable(
            "dataloader-TRAIN", train_loader
        )

        # 6. Brain
        budget = None
        if hparams["minutes"] and not run_opts["debug"]:

            def keep():
                """Write down the number of steps."""
                record.keep(overrides, lists, weights)
                save_hyperparams(hparams_file, overrides)

            budget = Budget(
                hparams["minutes"], started, hparams_file, overrides, keep
            )
        with as_input_error("The run options"):
            brain = SpeakerBrain(
                datasets,
                label_encoder,
                starts,
                budget,
                capture_step=hparams["capture_step"],
                sync_batchnorm=hparams["sync_batchnorm"],
                compile_step=hparams["compile_step"],
                sharpness_radius=hparams["sharpness_radius"],
                modules=hparams["modules"],
                opt_class=hparams["opt_class"],
                hparams=hparams,
                run_opts=run_opts,
                checkpointer=hparams["checkpointer"],
            )
        brain.train_sampler, brain.ahead = datasets["train"], ahead

        # 7. Training, evaluation, model
        progressbar = None if sys.stderr.isatty() else False
        brain.fit(
            hparams["epoch_counter"],
            train_loader,
            datasets["valid"],
            progressbar=progressbar,
            valid_loader_kwargs=whole.copy(),
        )
        brain.evaluate(
            datasets["test"],
            progressbar=progressbar,
            test_loader_kwargs=whole.copy(),
        )
        brain.write_model()
        brain.close()


if __name__ == "__main__":
    with exit_on_input_error():
        main(process_start())
