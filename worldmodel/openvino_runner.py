"""Run any pure tensor function compiled by OpenVINO for this CPU. Knows nothing of models."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Importing openvino sends usage statistics over the network, unless this package cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402 - after the line above
from openvino.frontend import FrontEndManager  # noqa: E402
from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder  # noqa: E402

PureFunction = Callable[..., tuple[Tensor, ...]]
DEVICE = "CPU"


class OpenVino:
    """Run `function` as OpenVINO compiled it.

    `function` keeps its shapes, draws no random number and writes to nothing that it did not make: what
    it reads beside its inputs (weights) becomes constants. Inputs are read where they lie, without a
    copy. The returned tensors are owned by the runner and overwritten by the next call, so they cannot
    be its inputs.
    """

    def __init__(
        self,
        function: PureFunction,
        example: Sequence[Tensor],
        dtype: torch.dtype,
        file: Path | None = None,
    ) -> None:
        """Compile `function`, written in float32, to compute in `dtype`.

        `file` keeps what was compiled: where it is, nothing is traced again. The caller names it after
        everything that decides what `function` computes. A file that OpenVINO cannot read is replaced.

        Raises:
            ValueError: if this CPU does not compute in `dtype`.
        """
        self._signatures = [_signature(tensor) for tensor in example]
        core = ov.Core()
        if dtype == torch.bfloat16 and not computes_bfloat16():
            raise ValueError("this CPU does not compute in bfloat16")
        hint = "bf16" if dtype == torch.bfloat16 else "f32"
        options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        compiled = None
        if file is not None and file.is_file():
            with contextlib.suppress(RuntimeError):  # of another build, or damaged: made anew below
                compiled = core.import_model(file.read_bytes(), DEVICE, options)
        if compiled is None:
            compiled = core.compile_model(_translate(function, example), DEVICE, options)
            if file is not None:
                _write(file, compiled.export_model().getvalue())
        self._request = compiled.create_infer_request()
        self._outputs = len(compiled.outputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run on `inputs`; those that are not contiguous are copied.

        Raises:
            ValueError: if an input differs from the example in number, shape or dtype.
        """
        if len(inputs) != len(self._signatures):
            raise ValueError(f"compiled for {len(self._signatures)} inputs, got {len(inputs)}")
        for index, (expected, new) in enumerate(zip(self._signatures, inputs, strict=True)):
            if _signature(new) != expected:
                raise ValueError(f"input {index} was compiled as {expected}, got {_signature(new)}")
        shared = [_shared(tensor.contiguous()) for tensor in inputs]  # alive until it has run
        for index, (tensor, _) in enumerate(shared):
            self._request.set_input_tensor(index, tensor)
        self._request.infer()
        results = (self._request.get_output_tensor(index).data for index in range(self._outputs))
        return tuple(torch.from_numpy(result) for result in results)


def computes_bfloat16() -> bool:
    """Does this CPU multiply bfloat16 natively?"""
    return "BF16" in ov.Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")


def version() -> str:
    """Of OpenVINO, and which CPU it compiles for."""
    return f"{ov.get_version()} {ov.Core().get_property(DEVICE, 'FULL_DEVICE_NAME')}"


class _Module(nn.Module):
    """`torch.export` takes modules only."""

    def __init__(self, function: PureFunction) -> None:
        super().__init__()
        self._function = function

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self._function(*inputs)


def _translate(function: PureFunction, example: Sequence[Tensor]) -> ov.Model:
    with torch.no_grad(), _without_remarks():
        program = torch.export.export(_Module(function), tuple(example))
        decoder = TorchFXPythonDecoder.from_exported_program(program)
    front_end = FrontEndManager().load_by_framework("pytorch")
    model = front_end.convert(front_end.load(decoder))
    shapes = zip(model.inputs, example, strict=True)
    model.reshape({port: list(tensor.shape) for port, tensor in shapes})
    return model


@contextlib.contextmanager
def _without_remarks() -> Iterator[None]:
    """OpenVINO and torch warn about each other's versions while translating; errors still rise."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _shared(tensor: Tensor) -> tuple[ov.Tensor, Any]:
    """The same memory for OpenVINO, and who owns it; numpy has no bfloat16: its bits are integers."""
    if tensor.dtype == torch.bfloat16:
        bits: Any = tensor.view(torch.int16).numpy()
        return ov.Tensor(bits, ov.Shape(list(tensor.shape)), ov.Type.bf16), bits
    numbers = tensor.numpy()
    return ov.Tensor(numbers, shared_memory=True), numbers


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(file)


def _signature(tensor: Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    return tuple(tensor.shape), tensor.dtype
