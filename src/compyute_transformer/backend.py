"""The earlier name of what `arrays`, `dispatch` and `threads` hold now."""

from ._earlier_names import earlier_names

__getattr__ = earlier_names(
    __name__,
    {
        **{name: f"arrays.{name}" for name in ("Array", "Device", "array_module", "device_of", "erf")},
        **{name: f"arrays.{name}" for name in ("to_device", "to_numpy")},
        **{name: f"threads.{name}" for name in ("set_threads", "threads")},
        "fast": "dispatch.dispatched",
        "use": "dispatch.use_kernels",
    },
)
