"""Begins what the first steps wait for while Prefect is imported: the import of either takes seconds on one core."""

from dataclasses import replace

from flows.journal import Journal
from flows.run import Run
from flows.submit import ThreadSubmit
from tasks.core.config import TorchModel
from tasks.core.errors import NotMade, TrtflowError
from tasks.data import prepare_data
from tasks.export import export
from tasks.homes import TORCH
from tasks.inspect import signature_of
from tasks.runtimes.isolate import Workers


def warm_ahead(run: Run, workers: Workers) -> None:
    """Start torch's import if the model is a torch module that is yet to be exported, as the store has it now."""
    if not isinstance(run.config.model, TorchModel):
        return
    journal = Journal()
    context = replace(run.context(workers), journal=journal, dry=True)
    try:
        with ThreadSubmit(journal) as submit:
            signature = signature_of(run.pipeline, run.config, None)
            submit(export, "", context, signature, submit(prepare_data, "", context, signature), ()).result()
    except NotMade:
        context.warm(TORCH)
    except TrtflowError:
        return  # the run says what is wrong
