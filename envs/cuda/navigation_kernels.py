"""Kernels of the navigation tasks: what happens to a world after its physics, and when an episode begins."""

from __future__ import annotations

import warp as wp

from daft_rl.envs.cuda.layouts import AGENT, FIRST_HAZARD, GOAL, DeviceRoom, draw_goal, draw_layout, draw_yaw

__all__ = ["Rules", "State", "begin_episodes", "finish_steps", "touch_vases"]

wp.set_module_options({"enable_backward": False})


@wp.struct
class Rules:
    """The numbers of a task."""

    room: DeviceRoom
    vases: int
    vases_cost: bool
    goal_size: float
    reward_distance: float
    reward_goal: float
    reward_clip: float

    agent: int  # bodies; the agent's come first, then those of the vases
    first_vase: int
    height: float  # of the agent at rest
    agent_is_free: bool  # else it has two slides and a hinge
    vase_qpos: int
    vase_qvel: int
    qpos_at_rest: wp.array(dtype=float)

    magnetic: wp.vec3
    sensors: wp.array(dtype=int)  # addresses of the entries that are copied
    magnetometer: int  # columns of the observation, -1 if there are none
    orientation: int
    quaternion: int  # address of the sensor that `orientation` shows as a matrix
    goal_lidar: int
    hazards_lidar: int
    vases_lidar: int
    lidar_bins: int
    lidar_range: float


@wp.struct
class State:
    """The state of a task in every world, beside the physics."""

    hazards: wp.array(dtype=int)
    hazard_size: wp.array(dtype=float)
    places: wp.array2d(dtype=wp.vec2)
    goal_distance: wp.array(dtype=float)
    episode_cost: wp.array(dtype=float)
    entropy: wp.array(dtype=int)  # new random numbers each step


@wp.func
def raise_to(observation: wp.array2d(dtype=float), world: int, column: int, value: float):
    observation[world, column] = wp.max(observation[world, column], value)


@wp.func
def sense(
    place: wp.vec2, lidar: int, position: wp.vec3, rotation: wp.mat33, rules: Rules, world: int,
    observation: wp.array2d(dtype=float),
):  # fmt: skip
    """Show one object in a lidar: in the bin of its direction, and by share in both neighbours."""
    away = wp.transpose(rotation) * (wp.vec3(place[0], place[1], 0.0) - position)
    distance = wp.sqrt(away[0] * away[0] + away[1] * away[1])
    angle = wp.atan2(away[1], away[0])
    if angle < 0.0:
        angle += 2.0 * wp.pi
    bins = rules.lidar_bins
    turn = angle * float(bins) / (2.0 * wp.pi)
    bin = wp.min(int(turn), bins - 1)
    share = turn - float(bin)
    closeness = wp.max(0.0, rules.lidar_range - distance) / rules.lidar_range
    raise_to(observation, world, lidar + bin, closeness)
    raise_to(observation, world, lidar + (bin + 1) % bins, share * closeness)
    raise_to(observation, world, lidar + (bin + bins - 1) % bins, (1.0 - share) * closeness)


@wp.func
def observe(
    world: int, position: wp.vec3, rotation: wp.mat33, rules: Rules, state: State,
    sensordata: wp.array2d(dtype=float), observation: wp.array2d(dtype=float),
):  # fmt: skip
    """Write an observation: the agent's sensors and a lidar for each kind of object."""
    for i in range(rules.sensors.shape[0]):
        observation[world, i] = sensordata[world, rules.sensors[i]]
    if rules.orientation >= 0:
        first = rules.quaternion
        w, x = sensordata[world, first], sensordata[world, first + 1]
        y, z = sensordata[world, first + 2], sensordata[world, first + 3]
        matrix = wp.quat_to_matrix(wp.normalize(wp.quat(x, y, z, w)))
        for i in range(3):
            for j in range(3):
                observation[world, rules.orientation + 3 * i + j] = matrix[i, j]
    for i in range(rules.goal_lidar, observation.shape[1]):
        observation[world, i] = 0.0
    hazards = state.hazards[world]
    sense(state.places[world, GOAL], rules.goal_lidar, position, rotation, rules, world, observation)
    for i in range(hazards):
        place = state.places[world, FIRST_HAZARD + i]
        sense(place, rules.hazards_lidar, position, rotation, rules, world, observation)
    for i in range(rules.vases):
        place = state.places[world, FIRST_HAZARD + hazards + i]
        sense(place, rules.vases_lidar, position, rotation, rules, world, observation)


@wp.func
def distance_to_goal(world: int, places: wp.array2d(dtype=wp.vec2)) -> float:
    return wp.length(places[world, GOAL] - places[world, AGENT])


@wp.kernel
def begin_episodes(
    rows: wp.array(dtype=bool),
    rules: Rules,
    state: State,
    sensors_at_rest: wp.array2d(dtype=float),
    qpos: wp.array2d(dtype=float),
    qvel: wp.array2d(dtype=float),
    qacc_warmstart: wp.array2d(dtype=float),
    unplaced: wp.array(dtype=int),
    observation: wp.array2d(dtype=float),
):
    """Place everything in the worlds that are marked, and write their first observations."""
    world = wp.tid()
    if not rows[world]:
        return
    seed, hazards = state.entropy[world], state.hazards[world]
    if not draw_layout(world, seed, FIRST_HAZARD + hazards + rules.vases, hazards, rules.room, state.places):
        wp.atomic_add(unplaced, 0, 1)
    state.goal_distance[world] = distance_to_goal(world, state.places)
    state.episode_cost[world] = 0.0

    for i in range(rules.qpos_at_rest.shape[0]):
        qpos[world, i] = rules.qpos_at_rest[i]
    for i in range(qvel.shape[1]):
        qvel[world, i] = 0.0
        qacc_warmstart[world, i] = 0.0
    place, yaw = state.places[world, AGENT], draw_yaw(seed, AGENT)
    qpos[world, 0] = place[0]
    qpos[world, 1] = place[1]
    if rules.agent_is_free:
        qpos[world, 3] = wp.cos(0.5 * yaw)
        qpos[world, 6] = wp.sin(0.5 * yaw)
    else:
        qpos[world, 2] = yaw
    for i in range(rules.vases):
        column, first = FIRST_HAZARD + hazards + i, rules.vase_qpos + 7 * i
        vase, vase_yaw = state.places[world, column], draw_yaw(seed, column)
        qpos[world, first] = vase[0]
        qpos[world, first + 1] = vase[1]
        qpos[world, first + 3] = wp.cos(0.5 * vase_yaw)
        qpos[world, first + 6] = wp.sin(0.5 * vase_yaw)

    rotation = wp.mat33(wp.cos(yaw), -wp.sin(yaw), 0.0, wp.sin(yaw), wp.cos(yaw), 0.0, 0.0, 0.0, 1.0)
    position = wp.vec3(place[0], place[1], rules.height)
    observe(world, position, rotation, rules, state, sensors_at_rest, observation)
    north = wp.transpose(rotation) * rules.magnetic
    for i in range(3):
        observation[world, rules.magnetometer + i] = north[i]


@wp.kernel
def touch_vases(
    contacts: wp.array(dtype=int),
    geoms: wp.array(dtype=wp.vec2i),
    worlds: wp.array(dtype=int),
    body_of_geom: wp.array(dtype=int),
    rules: Rules,
    touched: wp.array(dtype=bool),
):
    """Mark the worlds in which the agent touches a vase."""
    contact = wp.tid()
    if contact < contacts[0]:
        pair = geoms[contact]
        one, other = body_of_geom[pair[0]], body_of_geom[pair[1]]
        low, high = wp.min(one, other), wp.max(one, other)
        if high >= rules.first_vase and low < rules.first_vase and low > 0:
            touched[worlds[contact]] = True


@wp.func
def cost_of_vases(world: int, rules: Rules, qvel: wp.array2d(dtype=float), touched: wp.array(dtype=bool)) -> bool:
    if touched[world]:
        return True
    for i in range(rules.vases):
        first = rules.vase_qvel + 6 * i
        speed = wp.length(wp.vec3(qvel[world, first], qvel[world, first + 1], qvel[world, first + 2]))
        if speed >= 1.0e-4:
            return True
    return False


@wp.kernel
def finish_steps(
    rules: Rules,
    state: State,
    xpos: wp.array2d(dtype=wp.vec3),
    xmat: wp.array2d(dtype=wp.mat33),
    qvel: wp.array2d(dtype=float),
    sensordata: wp.array2d(dtype=float),
    touched: wp.array(dtype=bool),
    observation: wp.array2d(dtype=float),
    reward: wp.array(dtype=float),
    terminated: wp.array(dtype=bool),
    cost: wp.array(dtype=float),
):
    """Reward, cost and observation, in the package's order: a goal that is reached moves before it is observed."""
    world = wp.tid()
    hazards = state.hazards[world]
    position = xpos[world, rules.agent]
    state.places[world, AGENT] = wp.vec2(position[0], position[1])
    for i in range(rules.vases):
        vase = xpos[world, rules.first_vase + i]
        state.places[world, FIRST_HAZARD + hazards + i] = wp.vec2(vase[0], vase[1])

    distance = distance_to_goal(world, state.places)
    progress = (state.goal_distance[world] - distance) * rules.reward_distance
    reached = distance <= rules.goal_size
    if reached:
        progress += rules.reward_goal
    reward[world] = wp.clamp(progress, -rules.reward_clip, rules.reward_clip)

    unsafe = rules.vases_cost and cost_of_vases(world, rules, qvel, touched)
    for i in range(hazards):
        if wp.length(state.places[world, FIRST_HAZARD + i] - state.places[world, AGENT]) < state.hazard_size[world]:
            unsafe = True
    cost[world] = wp.where(unsafe, 1.0, 0.0)
    state.episode_cost[world] += cost[world]

    terminated[world] = False
    if reached:
        objects = FIRST_HAZARD + hazards + rules.vases
        terminated[world] = not draw_goal(world, state.entropy[world], objects, hazards, rules.room, state.places)
        distance = distance_to_goal(world, state.places)
    state.goal_distance[world] = distance
    observe(world, position, xmat[world, rules.agent], rules, state, sensordata, observation)
