"""An off-screen OpenGL context through EGL: no window, any number of GPUs, or none (llvmpipe)."""

from __future__ import annotations

from typing import Any

import moderngl

_LIBRARIES: tuple[dict[str, str], ...] = ({}, {"libgl": "libGL.so.1", "libegl": "libEGL.so.1"})


def make_context(device_index: int = 0) -> moderngl.Context:
    """A standalone context on the given device, or on the first one if there are fewer.

    Raises:
        ValueError: if no EGL device works; says what to install.
    """
    errors: list[str] = []
    for index in dict.fromkeys((device_index, 0)):
        for names in _LIBRARIES:
            options: dict[str, Any] = {"backend": "egl", "device_index": index, **names}
            try:
                return moderngl.create_context(standalone=True, require=430, **options)
            except Exception as error:  # noqa: BLE001 - glcontext raises bare Exception
                errors.append(f"device {index}: {error}")
    raise ValueError(
        f"no off-screen OpenGL 4.3 through EGL ({'; '.join(errors)}); install libegl1 and libgl1"
    )
