"""Whole experts of mixtures go: positions that routers score, what is stored for them, and nodes that work for them alone."""
