"""transformers' Trainer over SVF: what it saves, resumes from and ends with, in every form of the parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from svf.models import TARGETS, make_model
from t2.svf import SvfConfig, load_expert

FORMS: dict[str, dict[str, Any]] = {
    "direct": {},
    "direct-renormalised": {"renormalise": True},
    "sigmoid": {"parametrisation": "sigmoid"},
    "sigmoid-renormalised": {"parametrisation": "sigmoid", "renormalise": True},
}


class Kill(TrainerCallback):
    """Ends a run in the middle, as a kill would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> dict[str, Any]:
    return FORMS[request.param]


def trainer(folder: Path, form: dict[str, Any], steps: int = 6, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    model = get_peft_model(make_model(), SvfConfig(target_modules=list(TARGETS), init_std=0.05, **form))
    tokens = torch.randint(1, 61, (24, 9), generator=torch.Generator().manual_seed(1))
    data = Dataset.from_dict({"input_ids": tokens.tolist(), "labels": tokens.tolist()})
    arguments = TrainingArguments(
        str(folder),
        **{
            "max_steps": steps,
            "per_device_train_batch_size": 4,
            "learning_rate": 0.1,
            "save_strategy": "steps",
            "save_steps": 2,
            "eval_strategy": "steps",
            "eval_steps": 2,
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            **settings,
        },
    )
    return Trainer(model, arguments, train_dataset=data, eval_dataset=data.select(range(8)))


def parameters(model: PeftModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if "svf_z" in name}


def test_a_resumed_run_ends_as_one_that_was_not_killed(form: dict[str, Any], tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", form)
    whole.train()
    killed = trainer(tmp_path / "killed", form)
    killed.add_callback(Kill(5))
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = trainer(tmp_path / "killed", form)
    resumed.train(resume_from_checkpoint=True)
    expected, found = parameters(whole.model), parameters(resumed.model)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    start = parameters(trainer(tmp_path / "new", form).model)
    assert not any(torch.equal(start[name], expected[name]) for name in expected)


def test_the_best_model_is_loaded_at_the_end(form: dict[str, Any], tmp_path: Path) -> None:
    # "Best" is the largest loss here, so that it is not that of the last step.
    run = trainer(tmp_path, form, load_best_model_at_end=True, greater_is_better=True)
    seen: dict[int, dict[str, Tensor]] = {}

    class Watch(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen[state.global_step] = parameters(run.model)

    run.add_callback(Watch())
    run.train()
    losses = {row["step"]: row["eval_loss"] for row in run.state.log_history if "eval_loss" in row}
    best = max(losses, key=lambda step: losses[step])
    assert best < 6 and run.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert all(torch.equal(value, seen[best][name]) for name, value in parameters(run.model).items())
    assert run.evaluate()["eval_loss"] == losses[best]


def test_a_checkpoint_is_an_expert_as_any_other(form: dict[str, Any], tmp_path: Path) -> None:
    run = trainer(tmp_path, form, steps=2)
    run.train()
    folder, z = tmp_path / "checkpoint-2", run.model.z()
    loaded = PeftModel.from_pretrained(make_model(), folder)
    for found in (load_expert(folder).z, loaded.z()):
        assert found.keys() == z.keys() and all(torch.equal(found[name], z[name]) for name in z)
    assert loaded.peft_config["default"].is_direct
    loaded.save_pretrained(tmp_path / "again")
    stored = load_file(tmp_path / "again/adapter_model.safetensors")
    assert len(stored) == len(z)  # what is not trained any more is z alone


def test_a_file_without_parameters_is_refused_where_it_cannot_be_resumed(tmp_path: Path) -> None:
    form = FORMS["sigmoid-renormalised"]
    killed = trainer(tmp_path, {**form, "resumable": False}, steps=2)
    killed.train()
    with pytest.raises(ValueError, match=r"holds the effective z alone.*SvfConfig\.resumable"):
        trainer(tmp_path, form).train(resume_from_checkpoint=True)


def test_parameters_of_another_form_are_refused(tmp_path: Path) -> None:
    trainer(tmp_path, {"parametrisation": "sigmoid", "max_mult": 2.0}, steps=2).train()
    with pytest.raises(ValueError, match="saved with another parametrisation, max_mult or renormalise"):
        trainer(tmp_path, {"parametrisation": "sigmoid", "max_mult": 3.0}).train(resume_from_checkpoint=True)


def test_parameters_that_are_not_all_there_are_refused(tmp_path: Path) -> None:
    trainer(tmp_path, FORMS["sigmoid"], steps=2).train()
    file = tmp_path / "checkpoint-2/adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if name.startswith("parameter."))]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="holds the effective z alone"):
        trainer(tmp_path, FORMS["sigmoid"]).train(resume_from_checkpoint=True)
