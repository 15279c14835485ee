"""`kbert` and its commands, in the order of their use, with all errors in one line."""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import click

from kbert.cli import data, models, records, speed, training
from tfrecords.errors import InputError, WorkerError


class _Mistake(click.ClickException):
    """A mistake in the input or the options."""

    exit_code = 2


class Commands(click.Group):
    """The group of all commands, listed in the order of their use.

    A mistake in the input or the options is reported in one line with exit code 2; a failure of
    another kind, such as a full disk, in one line with exit code 1. Ctrl-C ends with 130, SIGTERM
    with 143."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        # click would sort them by name.
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        signal.signal(signal.SIGTERM, _exit_on_sigterm)
        hook = sys.unraisablehook
        sys.unraisablehook = functools.partial(_repeat_lost_signal, hook)
        # A traceback stays for what is a fault of this program.
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except InputError as error:
            raise _Mistake(str(error)) from None
        except WorkerError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # click ends quietly if the reader of a pipe, such as `head`, has gone
            raise click.ClickException(
                f"{error.filename or 'A file'}: {error.strerror or error}."
            ) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        finally:
            sys.unraisablehook = hook


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"warning: {message}", err=True)


def _exit_on_sigterm(number: int, frame: Any) -> None:
    """Ends as Python ends, so that temporary files are removed."""
    raise SystemExit(128 + number)


def _repeat_lost_signal(otherwise: Callable[[Any], object], unraisable: Any) -> None:
    """Sends a signal again, a little later, that came while Python ran a destructor: there it
    prints any exception, and goes on. Of other exceptions `otherwise` is told."""
    if not isinstance(unraisable.exc_value, SystemExit | KeyboardInterrupt):
        otherwise(unraisable)
        return
    is_ctrl_c = isinstance(unraisable.exc_value, KeyboardInterrupt)
    number = signal.SIGINT if is_ctrl_c else signal.SIGTERM
    timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="kbert-pretraining")
def main() -> None:
    """Pretrain BERT on your own text, one command after the other.

    'kbert demo' runs all of them on real text.
    """
    # Read by TensorFlow's C++ code when it is first imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


for command in (
    data.corpus,
    data.vocabulary,
    data.records,
    records.pack,
    records.inspect,
    training.pretrain,
    training.evaluate,
    speed.benchmark,
    speed.plan,
    models.export,
    models.predict,
    models.demo,
):
    main.add_command(command)
