"""Trainings of the network of `tests/commands.py`, each by a library's own loop, that take a second."""

from pathlib import Path
from typing import Any


def lightning_fit(folder: Path, callback: Any) -> str:  # noqa: ANN401 - a class of a library that may be absent
    """Fit and return the path of the best checkpoint; its state_dict is that of torch.nn.Linear(4, 3)."""
    import importlib

    import torch

    # By name: it is installed in few environments, and the checks of types are to see the same in all.
    lightning: Any = importlib.import_module("lightning.pytorch")
    saved = lightning.callbacks.ModelCheckpoint(folder, monitor="loss")

    class Net(torch.nn.Linear, lightning.LightningModule):  # type: ignore[misc]
        def training_step(self, batch: Any, _: int) -> Any:  # noqa: ANN401
            x, y = batch
            loss = torch.nn.functional.mse_loss(self.forward(x), y)
            self.log("loss", loss)  # type: ignore[operator] # of its other base, which is unknown here
            return loss

        def configure_optimizers(self) -> Any:  # noqa: ANN401
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.randn(8, 3))
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[saved, callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Net(4, 3), torch.utils.data.DataLoader(data, batch_size=4))
    return str(saved.best_model_path)


def transformers_fit(folder: Path, callback: Any) -> None:  # noqa: ANN401 - as above
    """Fit for two epochs of two steps; a checkpoint's model.safetensors is the state of torch.nn.Linear(4, 3)."""
    import torch
    import transformers

    class Net(torch.nn.Linear):
        def forward(self, x: Any, labels: Any = None) -> Any:  # noqa: ANN401
            y = super().forward(x)
            return y if labels is None else {"loss": torch.nn.functional.mse_loss(y, labels), "logits": y}

    torch.manual_seed(0)
    rows = [{"x": torch.randn(4), "labels": torch.randn(3)} for _ in range(8)]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        save_strategy="epoch",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    transformers.Trainer(model=Net(4, 3), args=arguments, train_dataset=rows, callbacks=[callback]).train()
