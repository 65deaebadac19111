"""robosuite's operational space controller as Warp kernels: one thread per world, ``float64``.

The controller is that of ``robosuite/controllers/parts/arm/osc.py`` with fixed impedance, actions relative to the
pose of the hand in the frame of the arm's base, and uncoupled translations and rotations (Khatib 1987). Its arithmetic
needs no inverse of the inertia M and no null space matrix: with A = J M⁻¹ Jᵀ, the torques that pull the joints to their
rest pose within the null space are M a - Jᵀ A⁻¹ J a.
"""

from __future__ import annotations

import warp as wp

__all__ = ["ARM_JOINTS", "HAND_SIZE", "Vec6", "Vec7", "control_arm", "observe_arm", "set_goal"]

ARM_JOINTS = 7
HAND_SIZE = 5 * ARM_JOINTS + 3 + 4 + 4
"""Entries of the robot's observation before those of the fingers."""
Vec6 = wp.types.vector(6, wp.float64)
Vec7 = wp.types.vector(ARM_JOINTS, wp.float64)
Jacobian = wp.types.matrix((6, ARM_JOINTS), wp.float64)
Inertia = wp.types.matrix((ARM_JOINTS, ARM_JOINTS), wp.float64)
InertiaSystem = wp.types.matrix((ARM_JOINTS, ARM_JOINTS + 6), wp.float64)
Spread = wp.types.matrix((ARM_JOINTS, 6), wp.float64)
HandSystem = wp.types.matrix((6, 7), wp.float64)
Mat66 = wp.types.matrix((6, 6), wp.float64)

REST_STIFFNESS = wp.constant(wp.float64(10.0))
"""Of the pull to the rest pose: ``joint_kp`` of robosuite's ``nullspace_torques``."""
REST_DAMPING = wp.constant(wp.float64(2.0 * 10.0**0.5))

wp.set_module_options({"enable_backward": False})


@wp.func
def double3(v: wp.vec3):
    return wp.vec3d(wp.float64(v[0]), wp.float64(v[1]), wp.float64(v[2]))


@wp.func
def double33(m: wp.mat33):
    return wp.matrix_from_rows(double3(m[0]), double3(m[1]), double3(m[2]))


@wp.func
def eliminate_inertia(system: InertiaSystem):
    """Turn (M | B) into (1 | M⁻¹ B), for a positive definite M."""
    for i in range(wp.static(ARM_JOINTS)):
        system[i] = system[i] / system[i, i]
        for k in range(wp.static(ARM_JOINTS)):
            if k != i:
                system[k] = system[k] - system[i] * system[k, i]
    return system


@wp.func
def eliminate_hand(system: HandSystem):
    """Turn (A | b) into (1 | A⁻¹ b), for a positive definite A."""
    for i in range(6):
        system[i] = system[i] / system[i, i]
        for k in range(6):
            if k != i:
                system[k] = system[k] - system[i] * system[k, i]
    return system


@wp.func
def orientation_error(desired: wp.mat33d, current: wp.mat33d):
    """robosuite's ``orientation_error``: half the sum of the cross products of the columns."""
    now, then = wp.transpose(current), wp.transpose(desired)  # rows are quicker to take than columns
    return wp.float64(0.5) * (wp.cross(now[0], then[0]) + wp.cross(now[1], then[1]) + wp.cross(now[2], then[2]))


@wp.func
def rotation(axis_angle: wp.vec3d):
    angle = wp.length(axis_angle)
    turn = wp.identity(3, dtype=wp.float64)
    if angle > wp.float64(0.0):
        turn = wp.quat_to_matrix(wp.quat_from_axis_angle(axis_angle / angle, angle))
    return turn


@wp.kernel
def set_goal(
    # the hand and the arm's base
    site_xpos: wp.array2d[wp.vec3],
    site_xmat: wp.array2d[wp.mat33],
    hand: int,
    base: int,
    # the action
    action: wp.array2d[float],
    scale: wp.array[float],
    # out
    goal_position: wp.array[wp.vec3d],
    goal_orientation: wp.array[wp.mat33d],
):
    """Set the goal in the frame of the base: the pose of the hand, moved by the action."""
    world = wp.tid()
    to_base = wp.transpose(double33(site_xmat[world, base]))
    position = to_base * (double3(site_xpos[world, hand]) - double3(site_xpos[world, base]))
    shift, turn = wp.vec3d(), wp.vec3d()
    for i in range(3):
        shift[i] = wp.float64(wp.clamp(action[world, i], -1.0, 1.0)) * wp.float64(scale[i])
        turn[i] = wp.float64(wp.clamp(action[world, 3 + i], -1.0, 1.0)) * wp.float64(scale[3 + i])
    goal_position[world] = position + shift
    goal_orientation[world] = rotation(turn) * to_base * double33(site_xmat[world, hand])


@wp.func
def arm_inertia(inertia: wp.array2d[float], inertia_address: wp.array2d[int], world: int):
    """The inertia of the arm's joints, of which MuJoCo Warp stores the lower triangle without zeros."""
    mass = Inertia()
    for j in range(wp.static(ARM_JOINTS)):
        for i in range(wp.static(ARM_JOINTS)):
            address = inertia_address[wp.max(i, j), wp.min(i, j)]
            value = wp.float64(0.0)
            if address >= 0:
                value = wp.float64(inertia[world, address])
            mass[i, j] = value
    return mass


@wp.func
def joint_torques(jacobian: Jacobian, mass: Inertia, system: InertiaSystem, pull: Vec7, desired: Vec6):
    """Torques that accelerate the hand as desired, and pull the joints to rest where that does not move the hand.

    :param system: the transposed Jacobian, with room for the inertia before it
    """
    for j in range(wp.static(ARM_JOINTS)):
        for i in range(wp.static(ARM_JOINTS)):
            system[i, j] = mass[i, j]
    system = eliminate_inertia(system)
    spread = Spread()
    for j in range(wp.static(ARM_JOINTS)):
        for i in range(6):
            spread[j, i] = system[j, wp.static(ARM_JOINTS) + i]
    mobility = jacobian * spread
    translation, tumble, in_hand = wp.mat33d(), wp.mat33d(), HandSystem()
    from_pull = jacobian * pull
    for i in range(6):
        for j in range(6):
            in_hand[i, j] = mobility[i, j]
        in_hand[i, 6] = from_pull[i]
    for i in range(3):
        for j in range(3):
            translation[i, j] = mobility[i, j]
            tumble[i, j] = mobility[3 + i, 3 + j]
    force = wp.inverse(translation) * wp.vec3d(desired[0], desired[1], desired[2])
    moment = wp.inverse(tumble) * wp.vec3d(desired[3], desired[4], desired[5])
    in_hand = eliminate_hand(in_hand)
    wrench = Vec6()
    for i in range(3):
        wrench[i] = force[i] - in_hand[i, 6]
        wrench[3 + i] = moment[i] - in_hand[3 + i, 6]

    return wp.transpose(jacobian) * wrench + mass * pull


@wp.func
def desired_acceleration(
    error: wp.vec3d,
    tilt: wp.vec3d,
    velocity: Vec6,
    stiffness: wp.array2d[float],
    damping: wp.array2d[float],
    world: int,
):
    """Of the hand, by the controller's springs and dampers."""
    desired = Vec6()
    for i in range(3):
        desired[i] = error[i]
        desired[3 + i] = tilt[i]
    for i in range(6):
        desired[i] = desired[i] * wp.float64(stiffness[world, i]) - velocity[i] * wp.float64(damping[world, i])
    return desired


@wp.kernel
def control_arm(
    # mujoco_warp.Model
    inertia_address: wp.array2d[int],
    body_isdofancestor: wp.array2d[int],
    body_rootid: wp.array[int],
    site_bodyid: wp.array[int],
    actuator_ctrlrange: wp.array2d[wp.vec2],
    # mujoco_warp.Data
    site_xpos: wp.array2d[wp.vec3],
    site_xmat: wp.array2d[wp.mat33],
    subtree_com: wp.array2d[wp.vec3],
    cdof: wp.array2d[wp.spatial_vector],
    inertia: wp.array2d[float],
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    qfrc_bias: wp.array2d[float],
    # the hand, the arm's base, the controller
    hand: int,
    base: int,
    goal_position: wp.array[wp.vec3d],
    goal_orientation: wp.array[wp.mat33d],
    stiffness: wp.array2d[float],
    damping: wp.array2d[float],
    rest: wp.array2d[float],
    # out
    ctrl: wp.array2d[float],
):
    """Set the torques of the arm's motors, which are the first seven. Its joints are the first seven too."""
    world = wp.tid()
    origin, position = double3(site_xpos[world, base]), double3(site_xpos[world, hand])
    frame = double33(site_xmat[world, base])
    center = double3(subtree_com[world, body_rootid[site_bodyid[hand]]])
    base_body = site_bodyid[base]

    jacobian, system, velocity, pull, speed = Jacobian(), InertiaSystem(), Vec6(), Vec7(), Vec7()
    for j in range(wp.static(ARM_JOINTS)):
        axis = cdof[world, j]
        turn, along = double3(wp.spatial_top(axis)), double3(wp.spatial_bottom(axis))
        arm = along + wp.cross(turn, position - center)
        speed[j] = wp.float64(qvel[world, j])
        pull[j] = REST_STIFFNESS * (wp.float64(rest[world, j]) - wp.float64(qpos[world, j])) - REST_DAMPING * speed[j]
        moves_base = wp.float64(body_isdofancestor[base_body, j])  # IIWA's base is part of its first link
        of_base = moves_base * (along + wp.cross(turn, origin - center))
        for i in range(3):
            jacobian[i, j] = arm[i]
            jacobian[3 + i, j] = turn[i]
            system[j, wp.static(ARM_JOINTS) + i] = arm[i]
            system[j, wp.static(ARM_JOINTS) + 3 + i] = turn[i]
            velocity[i] += speed[j] * (arm[i] - of_base[i])
            velocity[3 + i] += speed[j] * turn[i] * (wp.float64(1.0) - moves_base)
    mass = arm_inertia(inertia, inertia_address, world)

    error = origin + frame * goal_position[world] - position
    tilt = orientation_error(frame * goal_orientation[world], double33(site_xmat[world, hand]))
    desired = desired_acceleration(error, tilt, velocity, stiffness, damping, world)
    torques = joint_torques(jacobian, mass, system, pull, desired)
    for j in range(wp.static(ARM_JOINTS)):
        limits = actuator_ctrlrange[world % actuator_ctrlrange.shape[0], j]
        torque = torques[j] + wp.float64(qfrc_bias[world, j])
        ctrl[world, j] = wp.clamp(float(torque), limits[0], limits[1])


@wp.kernel
def observe_arm(
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    qacc: wp.array2d[float],
    xquat: wp.array2d[wp.quat],
    site_xpos: wp.array2d[wp.vec3],
    site_xmat: wp.array2d[wp.mat33],
    hand: int,
    hand_body: int,
    fingers: int,
    # out
    robot: wp.array2d[float],
):
    """Write robosuite's state of the robot: joints, hand, and the fingers, whose joints follow those of the arm."""
    world = wp.tid()
    for j in range(wp.static(ARM_JOINTS)):
        angle = qpos[world, j]
        robot[world, j] = angle
        robot[world, wp.static(ARM_JOINTS) + j] = wp.cos(angle)
        robot[world, wp.static(2 * ARM_JOINTS) + j] = wp.sin(angle)
        robot[world, wp.static(3 * ARM_JOINTS) + j] = qvel[world, j]
        robot[world, wp.static(4 * ARM_JOINTS) + j] = qacc[world, j]
    place = site_xpos[world, hand]
    for i in range(3):
        robot[world, wp.static(5 * ARM_JOINTS) + i] = place[i]
    body = xquat[world, hand_body]  # w, x, y, z in MuJoCo's order
    first = wp.static(5 * ARM_JOINTS + 3)
    for i in range(4):
        robot[world, first + i] = body[(i + 1) % 4]
    turn = wp.quat_from_matrix(site_xmat[world, hand])
    if turn[3] < 0.0:
        turn = -turn
    for i in range(4):
        robot[world, first + 4 + i] = turn[i]
    for i in range(fingers):
        robot[world, wp.static(HAND_SIZE) + i] = qpos[world, wp.static(ARM_JOINTS) + i]
        robot[world, wp.static(HAND_SIZE) + fingers + i] = qvel[world, wp.static(ARM_JOINTS) + i]
