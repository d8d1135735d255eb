"""Pictures, depth maps, known depths and videos in and out of files.

Each module is imported where it is needed: `pictures`, `maps`, `clouds`, `videos`.
"""
