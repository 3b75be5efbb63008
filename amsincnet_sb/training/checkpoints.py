"""Checkpoints that are either whole or not there."""

import json
import logging
import os
import pickle
import shutil
import zlib
from contextlib import contextmanager

import speechbrain as sb
import yaml
from speechbrain.utils.checkpoints import (
    METAFNAME,
    Checkpoint,
    Checkpointer,
    ckpt_recency,
)
from speechbrain.utils.distributed import ddp_prevent_block, if_main_process

from amsincnet_sb.training.distributed import on_main, same_on_all_ranks
from amsincnet_sb.utils.errors import InputError

__all__ = ["AtomicCheckpointer"]

logger = sb.utils.logger.get_logger(__name__)

# What a file that holds something else raises; the savers' own are harmless.
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
CHECKSUMS = "CHECKSUMS.json"
UNFINISHED, DELETED = ".saving-", ".deleting-"


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer, safe against being killed at any moment.

    A checkpoint is written aside, flushed to the disk and renamed, together
    with a checksum of each of its files. When one is looked for, a damaged
    one (cut short, garbled, with a file missing) is reported, left alone,
    and passed over for the next. Stock SpeechBrain reads these checkpoints,
    and its own, which have no checksums, are read here.

    Of several processes the main one writes. A recoverable that differs
    between them may have a method ``gather``, called on all of them before.

    Arguments
    ---------
    checkpoints_dir, recoverables, … :
        See speechbrain.utils.checkpoints.Checkpointer.

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

    def save_checkpoint(
        self, meta=None, end_of_epoch=True, name=None, verbosity=logging.INFO
    ):
        """Save a checkpoint; see the base class.

        Arguments
        ---------
        meta : mapping, optional
            Plain numbers and strings; others are made such if they can be.
        end_of_epoch : bool
            As in the base class.
        name : str, optional
            As in the base class.
        verbosity : int
            Logging level of the message.

        Returns
        -------
        Checkpoint
            None on a process that is not the main one.

        Raises
        ------
        InputError
            If it cannot be written; older checkpoints are as they were.
        """
        meta = {key: _plain(value) for key, value in (meta or {}).items()}
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
        with self._aside():
            try:
                saved = super().save_checkpoint(
                    meta, end_of_epoch, name, logging.DEBUG
                )
                return self._finish(saved)
            except (OSError, RuntimeError) as error:
                reason = str(error).split("\n")[0]
                raise InputError(
                    f"{self.checkpoints_dir}: a checkpoint cannot be written "
                    f"({reason}); those before it are intact."
                ) from error

    @contextmanager
    def _aside(self):
        """Have the base class write to a name that is not a checkpoint's."""
        made = (
            Checkpointer._new_checkpoint_dirpath,
            (Checkpointer._custom_checkpoint_dirpath),
        )

        def aside(path):
            """Where a folder is written before it counts."""
            return path.with_name(UNFINISHED + path.name)

        self._sweep()
        self._new_checkpoint_dirpath = lambda: aside(made[0](self))
        self._custom_checkpoint_dirpath = lambda n: aside(made[1](self, n))
        try:
            yield
        finally:
            del self._new_checkpoint_dirpath, self._custom_checkpoint_dirpath

    def _sweep(self):
        """Remove what was half written or half deleted."""
        for name in (UNFINISHED, DELETED):
            for rest in self.checkpoints_dir.glob(name + "*"):
                shutil.rmtree(rest, ignore_errors=True)

    def _finish(self, saved):
        """Flush, add checksums, take the name."""
        sums = {}
        for path in sorted(saved.path.iterdir()):
            with open(path, "rb") as file:
                sums[path.name] = [path.stat().st_size, _crc(file)]
                os.fsync(file.fileno())
        with open(saved.path / CHECKSUMS, "w", encoding="utf-8") as file:
            json.dump(sums, file)
            file.flush()
            os.fsync(file.fileno())
        final = saved.path.with_name(saved.path.name[len(UNFINISHED) :])
        if final.exists():  # a name given a second time
            shutil.rmtree(final)
        _sync_folder(saved.path)
        saved.path.rename(final)
        _sync_folder(final.parent)
        files = {k: final / p.name for k, p in saved.paramfiles.items()}
        return Checkpoint(final, saved.meta, files)

    def save_and_keep_only(
        self,
        meta=None,
        end_of_epoch=True,
        name=None,
        num_to_keep=1,
        keep_recent=True,
        importance_keys=(),
        max_keys=(),
        min_keys=(),
        ckpt_predicate=None,
        verbosity=logging.INFO,
    ):
        """Save a checkpoint, delete others; see the base class.

        That one adds to its default ``importance_keys`` with every call, so
        that each takes longer than the one before.

        Arguments
        ---------
        meta, end_of_epoch, name :
            See :meth:`save_checkpoint`.
        num_to_keep, max_keys, min_keys, ckpt_predicate :
            See :meth:`delete_checkpoints`.
        keep_recent : bool
            Whether to keep the most recent ``num_to_keep``, too.
        importance_keys : sequence of callable
            See :meth:`delete_checkpoints`.
        verbosity : int
            Logging level of the messages.
        """
        super().save_and_keep_only(
            meta,
            end_of_epoch,
            name,
            num_to_keep,
            keep_recent,
            list(importance_keys),
            max_keys,
            min_keys,
            ckpt_predicate,
            verbosity,
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
        """Delete all but the most important ones; see the base class.

        One that is being deleted is no checkpoint any more.

        Arguments
        ---------
        num_to_keep : int
            Of each order.
        min_keys, max_keys, importance_keys, ckpt_predicate :
            As in the base class.
        verbosity : int
            Logging level of the messages.

        Raises
        ------
        ValueError
            If ``num_to_keep`` is negative.
        InputError
            If one cannot be deleted.
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
        self._sweep()
        ranked = [
            [
                found.path
                for found in self.find_checkpoints(
                    **order, ckpt_predicate=ckpt_predicate
                )
            ]
            for order in orders
        ]
        kept = {path for paths in ranked for path in paths[:num_to_keep]}
        for path in sorted({path for paths in ranked for path in paths} - kept):
            try:
                aside = path.with_name(DELETED + path.name)
                path.rename(aside)
                shutil.rmtree(aside)
            except OSError as error:
                raise InputError(
                    f"{path}: an old checkpoint cannot be deleted "
                    f"({error.strerror})."
                ) from error
            logger.log(verbosity, f"Deleted a checkpoint: {path}")

    def recover_if_possible(
        self,
        importance_key=None,
        max_key=None,
        min_key=None,
        ckpt_predicate=None,
    ):
        """Load the best checkpoint that is whole; see the base class.

        Arguments
        ---------
        importance_key, max_key, min_key, ckpt_predicate :
            As in the base class.

        Returns
        -------
        Checkpoint or None

        Raises
        ------
        InputError
            If it is of a model with other shapes or holds something else, or
            if processes on several machines see different ones.
        """
        damaged = set()

        def whole(checkpoint):
            """Whether it may be loaded."""
            wanted = ckpt_predicate is None or ckpt_predicate(checkpoint)
            return wanted and checkpoint.path not in damaged

        while True:
            found = self.find_checkpoint(
                importance_key, max_key, min_key, whole
            )
            reason = None if found is None else _damage(found.path)
            if reason is None and not ddp_prevent_block():
                name = "missing" if found is None else found.path.name
                what = f"The checkpoint to go on from in {self.checkpoints_dir}"
                same_on_all_ranks(name, what)
            if found is None:
                return None
            if reason is None:
                try:
                    self.load_checkpoint(found)
                except RuntimeError as error:  # of torch, about shapes
                    reason = str(error).strip().split("\n")[-1].strip(" \t.")
                    raise InputError(
                        f"{found.path} is of a run with other sizes or "
                        f"another number of speakers ({reason}); give a new "
                        "--output_folder."
                    ) from error
                except _UNREADABLE as error:
                    reason = str(error).strip().split("\n")[0].strip(" \t.")
                    raise InputError(
                        f"{found.path} is whole but not what was saved here "
                        f"({reason}); move it away, and the one before it is "
                        "used."
                    ) from error
                return found
            damaged.add(found.path)
            logger.warning(
                f"{found.path} is damaged ({reason}) and is passed over."
            )

    @staticmethod
    def _is_checkpoint_dir(path):
        """As the base class, and its meta data can be read."""
        if not Checkpointer._is_checkpoint_dir(path):
            return False
        try:
            with open(path / METAFNAME, encoding="utf-8") as file:
                meta = yaml.safe_load(file)
            usable = "end-of-epoch" in meta
            usable = usable and isinstance(meta["unixtime"], (int, float))
        except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError):
            usable = False
        if not usable:
            logger.warning(
                f"{path} is damaged (its {METAFNAME} cannot be read) and is "
                "passed over."
            )
        return usable

    def _list_checkpoint_dirs(self):
        return [
            path
            for path in self.checkpoints_dir.iterdir()
            if self._is_checkpoint_dir(path)
        ]


def _plain(value):
    """Numbers of torch and numpy as Python's, which yaml can read again."""
    return value.item() if hasattr(value, "item") else value


def _crc(file):
    crc = 0
    while block := file.read(1 << 22):
        crc = zlib.crc32(block, crc)
    return crc


def _sync_folder(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _damage(path):
    """What is wrong with a checkpoint, or None."""
    if not (path / CHECKSUMS).exists():
        return None  # written by SpeechBrain itself
    try:
        sums = json.loads((path / CHECKSUMS).read_text(encoding="utf-8"))
        for name, (size, crc) in sums.items():
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
