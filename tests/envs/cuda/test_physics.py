"""The batched physics: what differs from MuJoCo's C code is mended, and models of one batch fit together."""

from __future__ import annotations

from importlib import import_module

import mujoco
import numpy as np
import pytest

pytest.importorskip("mujoco_warp", reason="worlds need the extra `cuda`")

from daft_rl.envs.cuda.physics import Physics
from daft_rl.errors import TaskError

STEEP_CAPSULE = """
<mujoco><worldbody>
  <geom type="plane" size="5 5 1"/>
  <body pos="0 0 0.37" euler="20 10 0"><freejoint/><geom type="capsule" size="0.1 0.3"/></body>
</worldbody></mujoco>"""
STACKED_BOXES = """
<mujoco><option cone="elliptic"/><worldbody>
  <geom type="box" size="1 1 0.1"/>
  <body pos="0 0 0.199"><freejoint/><geom type="box" size="0.1 0.1 0.1"/></body>
</worldbody></mujoco>"""


def physics_of(*models: mujoco.MjModel) -> Physics:
    return Physics(models, np.arange(len(models)), "cpu", contacts=16, constraints=64)


@pytest.mark.parametrize("scene", [STEEP_CAPSULE, STACKED_BOXES], ids=["steep capsule", "stacked boxes"])
def test_contacts_are_those_of_the_c_code(scene: str) -> None:
    model = mujoco.MjModel.from_xml_string(scene)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    physics = physics_of(model)
    physics.program(lambda: physics.mjw.forward(physics.model, physics.data))()
    count = int(physics.field("nacon")[0])
    assert count == data.ncon > 0
    frames = physics.data.contact.frame.numpy()[:count].reshape(count, 9)
    np.testing.assert_allclose(frames, data.contact.frame, atol=1e-6)
    np.testing.assert_allclose(physics.field("qacc")[0], data.qacc, rtol=1e-3, atol=1e-3)
    pairs = import_module("mujoco_warp._src.collision_primitive")._PRIMITIVE_COLLISION_TYPES
    assert len(pairs) == 1, "pairs of other models are no part of the kernel"


def test_worlds_keep_their_own_numbers() -> None:
    models = [mujoco.MjModel.from_xml_string(STEEP_CAPSULE) for _ in range(2)]
    models[1].opt.gravity[2] = -1.0
    models[1].body_mass[1] = 7.0
    physics = physics_of(*models)
    masses = physics.model_field("body_mass")
    np.testing.assert_allclose(masses, [model.body_mass for model in models], rtol=1e-6)
    assert physics.model_field("geom_size").shape[0] == 2


def test_worlds_must_share_their_structure() -> None:
    models = [mujoco.MjModel.from_xml_string(scene) for scene in (STEEP_CAPSULE, STACKED_BOXES)]
    with pytest.raises(TaskError, match="must share the structure"):
        physics_of(*models)
