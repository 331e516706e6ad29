"""Begins what the first steps take while Prefect is imported: that, and what they import, takes seconds on one core."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace

from flows.journal import Journal
from flows.prefect_http import PrefectHttp
from flows.run import Run
from flows.submit import ThreadSubmit, run_step
from tasks.core.config import TorchModel
from tasks.core.errors import NotMade, TrtflowError
from tasks.core.signature import Signature
from tasks.data import prepare_data
from tasks.export import export
from tasks.homes import TORCH
from tasks.inspect import signature_of
from tasks.runtimes.isolate import Workers


@contextlib.contextmanager
def begun_ahead(run: Run, workers: Workers) -> Iterator[None]:
    """Start torch's import, and the step `data`, if the model is a torch module that is yet to be exported.

    The run's own step `data` then waits for what is at work, or finds what was made. An error stops it.
    """
    _begin(run, workers)
    try:
        yield
    except BaseException:
        run.stop.set()  # else what waits for another run's benchmark would keep this process
        raise


def _begin(run: Run, workers: Workers) -> None:
    if not isinstance(run.config.model, TorchModel):
        return
    journal = Journal()
    context = replace(run.context(workers), journal=journal, dry=True)
    try:
        signature = signature_of(run.pipeline, run.config, None)
        with ThreadSubmit(journal) as submit:
            submit(export, "", context, signature, submit(prepare_data, "", context, signature), ()).result()
    except NotMade:
        context.warm(TORCH)
        threading.Thread(target=_prepare, name="ahead", args=(run, workers, signature)).start()
    except TrtflowError:
        return  # the run says what is wrong


def _prepare(run: Run, workers: Workers, signature: Signature) -> None:
    try:
        PrefectHttp.of(None, None, 0).get("/admin/version")  # without a server that lets us in, nothing is to be made
        with run.store.in_use(run.pipeline):
            run_step(run.journal, prepare_data, "", lambda: [run.context(workers), signature])
    except TrtflowError:
        return  # as above
