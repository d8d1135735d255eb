"""A ray caster of drawn scenes, batched on any device: pictures with depth and normals, by seed.

scenes = Scenes.stack([draw_scene(seed=0, index=i) for i in range(16)])
views = render(scenes, height=96, width=128)      # views.rgb, views.depth, views.normal, views.sky
"""

from diffusion_suite.depth.renderer.layouts import LAYOUTS, draw_scene
from diffusion_suite.depth.renderer.render import Views, render
from diffusion_suite.depth.renderer.scenes import Scenes

__all__ = ["LAYOUTS", "Scenes", "Views", "draw_scene", "render"]
