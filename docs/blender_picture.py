"""Render a GLB in Blender, in Cycles on the CPU: blender -b -P docs/blender_picture.py -- mesh.glb picture.png

Or `python docs/blender_picture.py mesh.glb picture.png` after `pip install bpy`. The suffix chooses png or webp.
"""

import sys

import bpy
from mathutils import Vector

SIZE, SAMPLES = 400, 32  # pixels a side; paths of each pixel
LENS, DISTANCE = 50.0, 2.1  # millimetres; from the centre, in longest sides of the object

source, target = sys.argv[-2:]
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=source)
(mesh,) = (thing for thing in bpy.data.objects if thing.type == "MESH")
corners = [mesh.matrix_world @ Vector(corner) for corner in mesh.bound_box]
low, high = (Vector([pick(axis) for axis in zip(*corners, strict=True)]) for pick in (min, max))
centre, side = (low + high) / 2, max(high - low)
print(f"{mesh.name}: {len(mesh.data.polygons)} faces, {' x '.join(f'{length:.3g}' for length in high - low)} m")


def looking(thing: bpy.types.Object, away: tuple[float, float, float]) -> None:
    """Put a camera or a lamp `away` longest sides from the centre, and turn it there."""
    thing.location = centre + side * Vector(away)
    thing.rotation_euler = (centre - thing.location).to_track_quat("-Z", "Y").to_euler()
    bpy.context.collection.objects.link(thing)


scene = bpy.context.scene
camera = bpy.data.cameras.new("camera")
camera.lens = LENS
scene.camera = bpy.data.objects.new("camera", camera)
looking(scene.camera, (DISTANCE * 0.5, -DISTANCE * 0.8, DISTANCE * 0.4))  # the front is -y
for name, away, watts, size in (("key", (-1.5, -2, 2.5), 50, 1.5), ("fill", (2.5, -1.5, 1), 15, 2.5)):
    lamp = bpy.data.lights.new(name, "AREA")
    lamp.energy, lamp.size = watts * side**2, size * side
    looking(bpy.data.objects.new(name, lamp), away)
bpy.ops.mesh.primitive_plane_add(size=200 * side, location=(centre.x, centre.y, low.z))
scene.world = bpy.data.worlds.new("world")
scene.world.use_nodes = True
scene.world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.55, 0.55, 0.55, 1)
scene.render.engine, scene.cycles.samples, scene.cycles.seed = "CYCLES", SAMPLES, 0
scene.view_settings.view_transform = "Standard"
scene.render.resolution_x = scene.render.resolution_y = SIZE
scene.render.image_settings.file_format = "WEBP" if target.endswith(".webp") else "PNG"
scene.render.filepath = target
bpy.ops.render.render(write_still=True)
