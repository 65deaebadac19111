"""The physics of many worlds: MuJoCo models stacked into one batched model, stepped on one device.

Worlds share the structure of their model (bodies, joints, types, integrator); every number of a model may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import mujoco
import numpy as np
import torch
import warp as wp
from numpy.typing import NDArray

from daft_rl.envs.cuda.package import import_mujoco_warp
from daft_rl.errors import SimulationError, TaskError

__all__ = ["Physics"]

UNREAD = ("dof_length",)
"""Arrays that may differ although worlds share them: only sleeping, which no task has, reads them."""


class Physics:
    """The batched model and data of MuJoCo Warp, and the programs that run on them.

    :param models: the distinct models
    :param model_of_world: for each world the index of its model, shape ``(num_worlds,)``
    :param device: ``cpu``, ``cuda`` or ``cuda:1``
    :param contacts: memory for this many contacts per world, on average over worlds
    :param constraints: memory for this many constraint rows in each world
    :raises TaskError: the models differ in structure, or MuJoCo Warp is not installed
    """

    capture = True
    """Whether programs are captured as graphs on a GPU. Without, they launch their kernels one by one."""

    def __init__(
        self,
        models: Sequence[mujoco.MjModel],
        model_of_world: NDArray[Any],
        device: str | torch.device,
        contacts: int,
        constraints: int,
    ) -> None:
        self.mjw = import_mujoco_warp()
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.warp_device = wp.device_from_torch(self.device)
        self.num_worlds = len(model_of_world)
        with self.stream():
            self.model = _stack([self._put(model) for model in models], model_of_world)
            self.data = self.mjw.make_data(models[0], nworld=self.num_worlds, nconmax=contacts, njmax=constraints)
            self._place_static_geoms(models, model_of_world)

    def _place_static_geoms(self, models: Sequence[mujoco.MjModel], model_of_world: NDArray[Any]) -> None:
        """Place what never moves where each world's own model has it.

        MuJoCo Warp places it once, for all worlds where the first model has it. To move it later, make it a mocap body.
        """
        if len(models) == 1:
            return
        places, turns = [], []
        for model in models:
            data = mujoco.MjData(model)
            mujoco.mj_kinematics(model, data)
            places.append(data.geom_xpos.copy())
            turns.append(data.geom_xmat.reshape(-1, 3, 3).copy())
        self.data.geom_xpos.assign(np.array(places, np.float32)[model_of_world])
        self.data.geom_xmat.assign(np.array(turns, np.float32)[model_of_world])

    def _put(self, model: mujoco.MjModel) -> Any:
        """A model on the device, with contacts of boxes as MuJoCo's C code finds them."""
        put = self.mjw.put_model(model)
        put.opt.disableflags |= self.mjw.DisableBit.NATIVECCD  # with it, two boxes touch in one point instead of four
        put.opt.warn_overflow = False  # printing from a kernel; `check` reads the flags
        return put

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Launch Warp's kernels in order with PyTorch's."""
        if self.device.type == "cuda":
            with wp.ScopedStream(wp.stream_from_torch(torch.cuda.current_stream(self.device))):
                yield
        else:
            with wp.ScopedDevice(self.warp_device):
                yield

    def field(self, name: str) -> torch.Tensor:
        """An array of the data as a tensor that shares its memory.

        :param name: a field of ``mujoco_warp.Data``, such as ``"qpos"``
        :return: shape ``(num_worlds, ...)``, ``float32``
        """
        array = getattr(self.data, name)
        if not array.size:  # Warp cannot convert it
            return torch.zeros(array.shape, device=self.device)
        return wp.to_torch(array, requires_grad=False)

    def model_field(self, name: str) -> torch.Tensor:
        """An array of the model with a row for each world, as a tensor that shares its memory.

        The array gets a row for each world if it had one for all.

        :param name: a field of ``mujoco_warp.Model`` that may differ between worlds, such as ``"body_pos"``
        """
        array = getattr(self.model, name)
        if array.shape[0] != self.num_worlds:
            with self.stream():
                array = wp.array(np.repeat(array.numpy(), self.num_worlds, axis=0), dtype=array.dtype)
            setattr(self.model, name, array)
        return wp.to_torch(array, requires_grad=False)

    def program(self, run: Callable[[], None]) -> Callable[[], None]:
        """Make a function that launches the kernels of ``run``: on a GPU, a graph that is captured now.

        Reset the worlds afterwards: ``run`` is executed once, so that kernels are compiled before they are captured.

        :param run: launches Warp kernels only, always the same ones on the same arrays
        """
        if self.device.type != "cuda" or not self.capture:

            def launch() -> None:
                with self.stream():
                    run()

            return launch
        with self.stream():
            run()
        torch.cuda.synchronize(self.device)
        with wp.ScopedDevice(self.warp_device), wp.ScopedCapture() as capture:
            run()

        def replay() -> None:
            wp.capture_launch(capture.graph, stream=wp.stream_from_torch(torch.cuda.current_stream(self.device)))

        return replay

    def check(self) -> None:
        """Read the guards from the device, once in a while: it waits for the device.

        :raises SimulationError: contacts or constraints did not fit into the memory that was set aside
        """
        lost = self.field("overflow")
        worlds = int((lost != 0).sum())
        if worlds:
            flags = int(lost[lost != 0][0])
            raise SimulationError(
                f"In {worlds} of {self.num_worlds} worlds contacts or constraints did not fit into memory (flags "
                f"{flags}): forces are missing. Report the task and its shift; vec='auto' runs it on the CPU."
            )

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Every array of the data, and of the model, that has a row for each world, by dotted name."""
        state = {}
        for part in ("data", "model"):
            for field, per_world in _array_fields(type(getattr(self, part))):
                array = _get(self, f"{part}.{field}") if per_world else None
                if array is not None and array.size and array.shape[0] == self.num_worlds:
                    state[f"{part}.{field}"] = np.array(array.numpy())  # a copy: on the CPU it shares memory
        return state

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Put the arrays of :meth:`state_dict` back, also those of another device."""
        for name, values in state.items():
            wp.to_torch(_get(self, name), requires_grad=False).copy_(torch.as_tensor(values))


def _array_fields(spec: Any, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """The arrays of a dataclass of MuJoCo Warp as dotted names, and whether worlds may differ in them."""
    for field in fields(spec):
        kind: Any = field.type
        if is_dataclass(kind):
            yield from _array_fields(kind, f"{prefix}{field.name}.")
        elif getattr(kind, "shape", None):
            yield prefix + field.name, kind.shape[0] in ("*", "nworld")


def _get(model: Any, name: str) -> Any:
    for part in name.split("."):
        model = getattr(model, part)
    return model


def _stack(models: Sequence[Any], model_of_world: NDArray[Any]) -> Any:
    """Give the first model a row for each world in every array in which models differ.

    :raises TaskError: they differ in something that worlds must share
    """
    stacked = models[0]
    stacked.has_fluid = any(model.has_fluid for model in models)
    if len(models) == 1:
        return stacked
    for name, per_world in _array_fields(type(stacked)):
        arrays = [_get(model, name) for model in models]
        if arrays[0] is None or name in UNREAD:
            continue
        values = [array.numpy() for array in arrays]
        if all(np.array_equal(values[0], value) for value in values[1:]):
            continue
        if not per_world or len({value.shape for value in values}) != 1:
            raise TaskError(f"Worlds of one batch must share the structure of their model; '{name}' differs.")
        array: Any = wp.array(np.concatenate(values)[model_of_world], dtype=arrays[0].dtype)
        *path, last = name.split(".")
        setattr(_get(stacked, ".".join(path)) if path else stacked, last, array)
    return stacked
