"""Models by their name, "owner/name", fetched by huggingface_hub into its cache (the extra `hub`)."""

import re
from functools import lru_cache
from pathlib import Path

from ..errors import DownloadError, MissingExtraError

__all__ = ["fetch", "is_hub_name"]

NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
FILES = ("*.json", "*.jinja", "*.safetensors", "*.txt")  # nothing that would have to be unpickled or run


def is_hub_name(name: str | Path) -> bool:
    """Return whether a name is "owner/name" and no path here: a path whose folder exists is a mistyped one."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return False
    return not Path(name).exists() and not Path(name).parent.exists()


@lru_cache
def fetch(name: str) -> Path:
    """Return the folder of a model in the cache, downloaded the first time, and again where it has changed.

    Raises:
        MissingExtraError: huggingface_hub is not installed. DownloadError: there is no such model, or no connection.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError(
            f"from_pretrained: there is no folder {name}; to fetch the model of this name, "
            "pip install 'compyute-transformer[hub]'"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:  # of several libraries for the connection
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise DownloadError(
            f"from_pretrained: {name} is no folder here, and the model of this name cannot be fetched: {reason} "
            "Give the path of a downloaded model, or try again with a connection."
        ) from error
