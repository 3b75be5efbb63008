"""Checkpoints that are either whole or not there."""

import json
import logging
import os
import pickle
import shutil
import zipfile
import zlib

import speechbrain as sb
import torch
import yaml
from speechbrain.utils.checkpoints import (
    METAFNAME,
    Checkpoint,
    Checkpointer,
    ckpt_recency,
)
from speechbrain.utils.distributed import ddp_prevent_block, if_main_process

from amsincnet_sb.kernels.finiteness import all_finite
from amsincnet_sb.training.distributed import on_main, same_on_all_ranks
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import is_plain_file, replaced_folder
from amsincnet_sb.utils.reading import check_tensors, read_json, read_text

__all__ = ["AtomicCheckpointer", "steps_done"]

logger = sb.utils.logger.get_logger(__name__)

CHECKSUMS = "CHECKSUMS.json"
# Raised on loading a file that holds something else.
_UNREADABLE = (
    pickle.UnpicklingError,
    yaml.YAMLError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    OSError,
)


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer, safe against being killed at any moment.

    SpeechBrain writes straight into the final folder, the meta file first:
    killed while it saves, it leaves a folder that counts as the newest
    checkpoint and that the next start cannot load. This class writes beside
    the final place, flushes to the disk and renames, and adds a checksum of
    each file. Modules and optimizers with NaN or infinite values are not
    saved, so that they replace no good ones. On loading, a damaged checkpoint
    (cut short, garbled, a file missing) is reported, left alone and passed over
    for the next newest. Its arguments are those of the Checkpointer.
    SpeechBrain's Checkpointer reads these checkpoints, and this class reads
    SpeechBrain's, which have no checksums.

    Only the main process writes. A recoverable whose state differs between
    ranks may have a method ``gather``, which every rank calls before saving.

    Example
    -------
    >>> import torch
    >>> folder = getfixture("tmp_path")
    >>> layer = torch.nn.Linear(2, 2)
    >>> checkpointer = AtomicCheckpointer(folder, {"layer": layer})
    >>> good = checkpointer.save_checkpoint(name="good")
    >>> bad = checkpointer.save_checkpoint(name="newer")
    >>> _ = (bad.path / "layer.ckpt").write_bytes(b"half of")
    >>> checkpointer.recover_if_possible().path == good.path
    True
    """

    _unfinished = None  # the folder a checkpoint is being written to
    _damaged = frozenset()  # folders that were passed over

    def save_checkpoint(
        self, meta=None, end_of_epoch=True, name=None, verbosity=logging.INFO
    ):
        """Save a checkpoint; None on a rank that is not the main process.

        Arguments as in the base class. Scalars of torch and NumPy in ``meta``
        become Python's, because others could not be read again. An InputError
        if it cannot be written, or a module or optimizer is NaN or infinite;
        older checkpoints stay as they were.
        """
        meta = {
            key: value.item() if hasattr(value, "item") else value
            for key, value in (meta or {}).items()
        }
        if not ddp_prevent_block():
            for recoverable in self.recoverables.values():
                if hasattr(recoverable, "gather"):
                    recoverable.gather()
        saved = on_main(self._save, meta, end_of_epoch, name)
        if not if_main_process():
            return None
        logger.log(verbosity, f"Saved a checkpoint: {saved.path}")
        return saved

    def _save(self, meta, end_of_epoch, name):
        self._remove_unfinished()
        self._check_values()
        if name is None:
            path = self._new_checkpoint_dirpath()
        else:
            path = self._custom_checkpoint_dirpath(name)
        try:
            with replaced_folder(path) as self._unfinished:
                saved = super().save_checkpoint(
                    meta, end_of_epoch, None, logging.DEBUG
                )
                _write_checksums(self._unfinished)
        except (InputError, RuntimeError) as error:
            reason = str(error).split("\n")[0].rstrip(".")
            if isinstance(error, RuntimeError):  # of torch: not the system's
                reason = f"is the disk full? torch says: {reason}"
            raise InputError(
                f"{self.checkpoints_dir}: a checkpoint cannot be written "
                f"({reason}); those before it are intact."
            ) from error
        finally:
            self._unfinished = None
        files = {key: path / p.name for key, p in saved.paramfiles.items()}
        return Checkpoint(path, saved.meta, files)

    def _check_values(self):
        """Raise InputError where modules or optimizers are NaN or infinite."""
        for name, recoverable in self.recoverables.items():
            if isinstance(recoverable, torch.nn.Module):
                tensors = recoverable.state_dict().values()
            elif isinstance(recoverable, torch.optim.Optimizer):
                states = recoverable.state.values()
                tensors = [x for state in states for x in state.values()]
            else:
                continue
            if not all_finite(tensors):
                raise InputError(
                    f"{self.checkpoints_dir}: no checkpoint is written, "
                    f"because the {name} has values that are NaN or infinite; "
                    "those before it are intact: look at the audio or lower "
                    "the learning rate before you go on."
                )

    def _new_checkpoint_dirpath(self):
        return self._unfinished or super()._new_checkpoint_dirpath()

    def _remove_unfinished(self):
        """Remove what a killed process was writing or deleting."""
        for rest in self.checkpoints_dir.glob(".*CKPT*"):
            shutil.rmtree(rest, ignore_errors=True)

    def save_and_keep_only(self, *arguments, importance_keys=(), **options):
        """Save a checkpoint, then delete others; as in the base class.

        The base class appends to its default ``importance_keys`` in every
        call, so that each call takes longer than the one before.
        """
        super().save_and_keep_only(
            *arguments, importance_keys=list(importance_keys), **options
        )

    def delete_checkpoints(
        self,
        *,
        num_to_keep=1,
        min_keys=None,
        max_keys=None,
        importance_keys=(ckpt_recency,),
        ckpt_predicate=None,
        verbosity=logging.INFO,
    ):
        """Delete all but the most important checkpoints, as the base class.

        Each is renamed before its files are deleted, so that a checkpoint
        that is half deleted no longer counts as one.
        """
        if num_to_keep < 0:
            raise ValueError(
                f"num_to_keep is {num_to_keep} but must not be negative."
            )
        orders = [
            *({"min_key": key} for key in min_keys or ()),
            *({"max_key": key} for key in max_keys or ()),
            *({"importance_key": key} for key in importance_keys or ()),
        ]
        on_main(self._delete, orders, num_to_keep, ckpt_predicate, verbosity)

    def _delete(self, orders, num_to_keep, ckpt_predicate, verbosity):
        self._remove_unfinished()
        found, kept = set(), set()
        for order in orders:
            ranked = self.find_checkpoints(
                **order, ckpt_predicate=ckpt_predicate
            )
            paths = [checkpoint.path for checkpoint in ranked]
            found.update(paths)
            whole = [path for path in paths if path not in self._damaged]
            kept.update(whole[:num_to_keep])
        for path in sorted(found - kept):
            try:
                hidden = path.with_name(f".{path.name}")
                path.rename(hidden)
                shutil.rmtree(hidden)
            except OSError as error:
                raise InputError(
                    f"{path}: an old checkpoint cannot be deleted "
                    f"({error.strerror})."
                ) from error
            logger.log(verbosity, f"Deleted a checkpoint: {path}")

    def find_checkpoints(
        self,
        importance_key=None,
        max_key=None,
        min_key=None,
        ckpt_predicate=None,
        max_num_checkpoints=None,
    ):
        """The best checkpoints, best first; arguments as in the base class.

        The newest is the one after the most steps. The base class goes by the
        clock, which may have been wrong, or another machine's.
        """
        if importance_key is ckpt_recency:
            importance_key = None
        key = None if importance_key else max_key or min_key
        sign = 1 if max_key else -1

        def rank(checkpoint):
            """Importance; of two alike, the newer comes first."""
            if importance_key:
                value = importance_key(checkpoint)
            else:
                value = sign * checkpoint.meta[key] if key else 0
            return value, _steps(checkpoint), ckpt_recency(checkpoint)

        found = [
            checkpoint
            for checkpoint in self.list_checkpoints()
            if (ckpt_predicate is None or ckpt_predicate(checkpoint))
            and (key is None or key in checkpoint.meta)
        ]
        return sorted(found, key=rank, reverse=True)[:max_num_checkpoints]

    def recover_if_possible(
        self,
        importance_key=None,
        max_key=None,
        min_key=None,
        ckpt_predicate=None,
    ):
        """Load the best checkpoint that is whole; arguments as in the base class.

        An InputError if it is of a model with other shapes or holds something
        else, or if the ranks see different checkpoints.
        """
        self._damaged = set()

        def _usable(checkpoint):
            wanted = ckpt_predicate is None or ckpt_predicate(checkpoint)
            return wanted and checkpoint.path not in self._damaged

        while found := self.find_checkpoint(
            importance_key, max_key, min_key, _usable
        ):
            reason = _damage(found.path)
            if reason is None:
                break
            self._damaged.add(found.path)
            _warn_of_damage(found.path, reason)
        if not ddp_prevent_block():
            same_on_all_ranks(
                "missing" if found is None else found.path.name,
                f"The checkpoint to go on from in {self.checkpoints_dir}",
            )
        if found is not None:
            self._load(found)
        return found

    def _load(self, found):
        try:
            for path in found.paramfiles.values():
                if zipfile.is_zipfile(path):  # not a text
                    check_tensors(path)
            self.load_checkpoint(found)
        except RuntimeError as error:  # of torch, about shapes
            reason = str(error).strip().split("\n")[-1].strip(" \t.")
            raise InputError(
                f"{found.path} is of a run with other sizes or another number "
                f"of speakers ({reason}); give a new --output_folder."
            ) from error
        except _UNREADABLE as error:
            reason = str(error).strip().split("\n")[0].strip(" \t.")
            raise InputError(
                f"{found.path} is whole but not what was saved here "
                f"({reason}); move it away, and the one before it is used."
            ) from error

    def _list_checkpoint_dirs(self):
        """As in the base class, less those whose meta file is unreadable."""
        return [
            path
            for path in super()._list_checkpoint_dirs()
            if _has_readable_meta(path)
        ]


def steps_done(checkpointer):
    """Steps that the training of a checkpointer's folder has done."""
    newest = checkpointer.find_checkpoint()
    return max(0, _steps(newest)[0]) if newest else 0


def _steps(checkpoint):
    """How far a Brain's training was, as something that can be compared."""
    try:
        text = read_text(checkpoint.paramfiles["brain"])
        steps = int(yaml.safe_load(text)["optimizer_step"])
    except _UNREADABLE:  # not of a Brain, or damaged
        steps = -1
    return steps, bool(checkpoint.meta["end-of-epoch"])


def _has_readable_meta(path):
    try:
        meta = yaml.safe_load(read_text(path / METAFNAME))
        usable = "end-of-epoch" in meta
        usable = usable and isinstance(meta["unixtime"], (int, float))
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError):
        usable = False
    if not usable:
        _warn_of_damage(path, f"its {METAFNAME} cannot be read")
    return usable


def _warn_of_damage(path, reason):
    logger.warning(f"{path} is damaged ({reason}) and is passed over.")


def _write_checksums(folder):
    """The size and CRC of each file."""
    sums = {}
    for path in sorted(folder.iterdir()):
        with open(path, "rb") as file:
            sums[path.name] = [path.stat().st_size, _crc(file)]
    (folder / CHECKSUMS).write_text(json.dumps(sums), encoding="utf-8")


def _damage(path):
    """The damage of a checkpoint in words, or None."""
    if not (path / CHECKSUMS).exists():
        return None  # written by SpeechBrain itself
    try:
        sums = read_json(path / CHECKSUMS, "it is written again")
        for name, (size, crc) in sums.items():
            if not is_plain_file(path / name):
                return f"{name} is missing"
            if os.path.getsize(path / name) != size:
                return f"{name} is cut short"
            with open(path / name, "rb") as file:
                if _crc(file) != crc:
                    return f"{name} is garbled"
    except OSError as error:
        return f"{os.path.basename(error.filename or '?')} is missing"
    except (ValueError, TypeError, AttributeError):
        return f"{CHECKSUMS} is garbled"
    return None


def _crc(file):
    crc = 0
    while block := file.read(1 << 22):
        crc = zlib.crc32(block, crc)
    return crc
