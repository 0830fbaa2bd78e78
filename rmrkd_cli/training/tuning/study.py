"""The search: which settings are tried next, which trials are stopped early, and where a killed search continues."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.installation.requirements import install_extra_command
from rmrkd_cli.presets.loader import to_yaml
from rmrkd_cli.terminal.messages import log, warn
from rmrkd_cli.training.tuning.space import Parameter, search_space, settings_of
from rmrkd_cli.training.tuning.trial import Outcome, TuningJob, remove_checkpoints, run_trial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

_STARTUP_TRIALS = 5  # sampled at random, and never pruned
_DATABASE, _STUDY = "study.db", "rmrkd"
_SIGNATURE, _ERROR, _SETTINGS = "signature", "error", "settings"  # attributes
Run = Callable[[TuningJob, str, Sequence[str], Callable[[int, float], None]], Outcome]


def require_optuna() -> None:
    """Raise RmrkdError if optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise RmrkdError(f"optuna is not installed: {error}", install_extra_command("tune")) from error


def open_study(job: TuningJob, *, resume: bool) -> Study:
    """Open the search in a work directory, or begin one.

    Raises:
        RmrkdError: There is one and `resume` is not given, or it has other settings.
    """
    import optuna
    from sqlalchemy.engine import URL

    database = job.work_dir / _DATABASE
    if database.exists() and not resume:
        raise RmrkdError(
            f"`{job.work_dir}` contains a search, which is not overwritten",
            "--resume continues it, --work-dir DIR selects another directory",
        )
    job.work_dir.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=URL.create("sqlite", database=str(database.absolute())).render_as_string(hide_password=False),
        study_name=_STUDY, direction="maximize", load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS),
    )  # fmt: skip
    known, own = study.user_attrs.get(_SIGNATURE), _signature(job)
    if known is None:
        study.set_user_attr(_SIGNATURE, own)
    elif known != own:
        raise RmrkdError(
            f"the search in `{job.work_dir}` was begun with another preset, method, length, seed or --set",
            "give the same options, or another directory with --work-dir DIR",
        )
    return study


def search(job: TuningJob, study: Study, trials: int, run: Run = run_trial) -> None:
    """Run trials until there are `trials` of them: the preset's own settings first, then what the sampler suggests.

    The settings of a trial depend on the seed, its number and the results before it alone, so a search that was killed
    gives the same as one that was not.

    Raises:
        RmrkdError: The first trial fails, or an input is wrong.
        Interrupted: After a signal; the same command with --resume continues.
    """
    import optuna

    if not study.get_trials(deepcopy=False):
        _run_first(job, study, run)
    space = search_space(job.load(), _first_weights(study))
    for frozen in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):  # the search was killed
        _set_sampler(job, study, frozen.number)
        _run(job, study, optuna.trial.Trial(study, frozen._trial_id), space, run, trials)
    while (number := len(study.get_trials(deepcopy=False))) < trials:
        _set_sampler(job, study, number)
        _run(job, study, study.ask(), space, run, trials)


def _set_sampler(job: TuningJob, study: Study, number: int) -> None:
    """Give a trial random numbers of its own."""
    import optuna

    study.sampler = optuna.samplers.TPESampler(seed=job.seed + number, n_startup_trials=_STARTUP_TRIALS)


def _run_first(job: TuningJob, study: Study, run: Run) -> None:
    """Run the preset's own settings. They give the weights around which is searched, so an error ends the search."""
    import optuna

    reached: dict[int, float] = {}
    log("trial 1: the preset's own settings")
    outcome = run(job, trial_name(0), (), reached.__setitem__)
    space = search_space(job.load(), outcome.weights)
    study.set_user_attr("weights", outcome.weights)
    values = {parameter.key: parameter.default for parameter in space}
    study.add_trial(
        optuna.trial.create_trial(
            params=values, distributions=_distributions(space), value=outcome.miou, intermediate_values=reached,
            user_attrs={_SETTINGS: settings_of({key: value for key, value in values.items() if value is not None})},
        )
    )  # fmt: skip
    log(f"trial 1: mIoU {100 * outcome.miou:.2f}")


def _run(job: TuningJob, study: Study, trial: Trial, space: Sequence[Parameter], run: Run, trials: int) -> None:
    """Run one trial, and record its result, that it was stopped early, or its error."""
    import optuna

    values = {one.key: trial.suggest_float(one.key, one.low, one.high, log=True) for one in space}
    settings = settings_of(values)
    trial.set_user_attr(_SETTINGS, settings)
    log(f"trial {trial.number + 1} of {trials}: {' '.join(settings)}")
    try:
        outcome = run(job, trial_name(trial.number), settings, partial(_prune, trial))
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        remove_checkpoints(job.work_dir / trial_name(trial.number))
        log(f"trial {trial.number + 1}: stopped early, below the median of the others")
    except RunError as error:
        trial.set_user_attr(_ERROR, error.message)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        remove_checkpoints(job.work_dir / trial_name(trial.number))
        warn(f"trial {trial.number + 1} failed: {error.message}")
    else:
        study.tell(trial, outcome.miou)
        log(f"trial {trial.number + 1}: mIoU {100 * outcome.miou:.2f}")


def _prune(trial: Trial, iteration: int, miou: float) -> None:
    """Stop a trial whose mIoU is below the median of the others at this iteration."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a trial that was killed reports some iterations again
        trial.report(miou, iteration)
    if trial.should_prune():
        raise optuna.TrialPruned


def trial_name(number: int) -> str:
    """Return the folder of a trial; the first has 001."""
    return f"trial-{number + 1:03d}"


def best_trial(study: Study) -> FrozenTrial:
    """Return the trial with the largest mIoU. Trials that were stopped early do not count."""
    return study.best_trial


def rows(study: Study) -> list[list[str]]:
    """Return a row for each trial: number, mIoU in percent, state, settings."""
    found = []
    for trial in study.get_trials(deepcopy=False):
        value = f"{100 * trial.value:.2f}" if trial.value is not None and trial.state.name == "COMPLETE" else "–"
        state = {"COMPLETE": "", "PRUNED": "stopped early", "FAIL": "failed"}.get(trial.state.name, "unfinished")
        settings = " ".join(text.removeprefix("losses.") for text in trial.user_attrs.get(_SETTINGS, ()))
        found.append([str(trial.number + 1), value, state, settings])
    return found


def best_settings(study: Study) -> list[str]:
    """Return the texts of `--set` of the best trial."""
    return list(best_trial(study).user_attrs[_SETTINGS])


def _first_weights(study: Study) -> Mapping[str, float]:
    weights: Mapping[str, float] = study.user_attrs["weights"]
    return weights


def _distributions(space: Sequence[Parameter]) -> dict[str, Any]:
    from optuna.distributions import FloatDistribution

    return {parameter.key: FloatDistribution(parameter.low, parameter.high, log=True) for parameter in space}


def _signature(job: TuningJob) -> str:
    contents = json.dumps([to_yaml(job.load()), job.seed])
    return hashlib.sha256(contents.encode()).hexdigest()[:16]


def write_best(job: TuningJob, study: Study, path: Path) -> None:
    """Write the losses with the best settings as a recipe for `rmrkd train --recipe`."""
    import yaml

    from rmrkd_cli.presets.safe_yaml import PlainDumper
    from rmrkd_cli.storage.atomic import write_text

    preset = job.load(changes=best_settings(study))
    losses = {name: spec.model_dump(mode="json", exclude_none=True) for name, spec in preset.losses.items()}
    first, best = study.get_trials(deepcopy=False)[0].value, best_trial(study).value
    about = {
        "source": f"rmrkd tune --preset {job.preset} --method {preset.method}, {len(study.get_trials())} trials of "
        f"{preset.schedule.iters} iterations",
        "measured": f"{100 * (best or 0):.2f} mIoU on the validation images, {100 * (first or 0):.2f} before tuning",
    }
    recipe = {
        "title": f"{preset.method} as tuned",
        "about": about,
        "preset": {"method": preset.method, "losses": losses},
    }
    text = yaml.dump(recipe, Dumper=PlainDumper, sort_keys=False, allow_unicode=True, width=110)
    write_text(f"# rmrkd train --preset {job.preset} --recipe {path}\n{text}", path)
