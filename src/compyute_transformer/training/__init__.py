"""Train models: settings and data become a run, which survives interruptions and can be resumed.

trainer    the training loop
tasks/     what a batch, a loss and a metric are: language, translation, images
classifiers directories of Transformers that classify texts, in and out
prediction the class of images, or the target of texts, whose answers are not known
run/       the folder of a run: start, resume, load, evaluate; checkpoints, configuration, lock
settings/  what is read, built and trained: defaults < preset < TOML file < flags
reporting/ events, log, progress, TensorBoard, metrics
interrupt  Ctrl-C ends a run after the current step, with a checkpoint
finite     find the module that produced the first NaN or infinity
"""

from .classifiers import load_classifier, save_classifier
from .early_stopping import EarlyStopping
from .prediction import Prediction, predict_images, predict_labels, predict_texts
from .reporting.choose import reporter_for
from .reporting.events import RunResult
from .reporting.reporters import JsonReporter, LineReporter, Reporter, Reporters
from .run.checkpoint import resume_command
from .run.config import RunConfig, load_config
from .run.folder import resume_run, start_from, start_run, unused_name
from .run.load import Evaluation, LoadedRun, evaluate_run, load_run
from .run.start import Start
from .settings.settings import DataSettings, ModelSettings, Settings, TrainingSettings
from .tasks.language import LanguageTask
from .tasks.task import Task, TaskEvaluation
from .trainer import Callback, Trainer

__all__ = [
    "Callback",
    "DataSettings",
    "EarlyStopping",
    "Evaluation",
    "JsonReporter",
    "LanguageTask",
    "LineReporter",
    "LoadedRun",
    "ModelSettings",
    "Prediction",
    "Reporter",
    "Reporters",
    "RunConfig",
    "RunResult",
    "Settings",
    "Start",
    "Task",
    "TaskEvaluation",
    "Trainer",
    "TrainingSettings",
    "evaluate_run",
    "load_classifier",
    "load_config",
    "load_run",
    "predict_images",
    "predict_labels",
    "predict_texts",
    "reporter_for",
    "resume_command",
    "resume_run",
    "save_classifier",
    "start_from",
    "start_run",
    "unused_name",
]
