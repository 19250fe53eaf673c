"""TIME: a corpus and settings become a run, step by step, and a run survives whatever happens to its process.

settings     what is read, built and trained: defaults < preset < TOML file < flags
task         what a batch, a loss and a metric are; language, translation and images are three; kinds finds them
trainer      the loop
run          the folder: start, resume, load, evaluate; its config.json and encoder are read in config
checkpoint   weights, optimizer, random state and data cursor, written whole or not at all
disk         how something is written whole or not at all
lock         one process at a time trains a run
journal      log.jsonl and samples.txt
events       what happens, as plain values; report, progress and tensorboard tell it
interrupt    Ctrl-C
advice       what to type next
finite       who produced the first NaN
"""

from .reporting.events import RunResult
from .reporting.reporters import JsonReporter, LineReporter, Reporter, Reporters, reporter_for
from .run.checkpoint import resume_command
from .run.config import RunConfig, load_config
from .run.folder import Evaluation, LoadedRun, evaluate_run, load_run, resume_run, start_run, unused_name
from .settings.settings import DataSettings, ModelSettings, Settings, TrainingSettings
from .tasks.language import LanguageTask
from .tasks.task import Task
from .trainer import Trainer

__all__ = [
    "DataSettings",
    "Evaluation",
    "JsonReporter",
    "LanguageTask",
    "LineReporter",
    "LoadedRun",
    "ModelSettings",
    "Reporter",
    "Reporters",
    "RunConfig",
    "RunResult",
    "Settings",
    "Task",
    "Trainer",
    "TrainingSettings",
    "evaluate_run",
    "load_config",
    "load_run",
    "reporter_for",
    "resume_command",
    "resume_run",
    "start_run",
    "unused_name",
]
