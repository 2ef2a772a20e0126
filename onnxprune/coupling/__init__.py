"""Which positions of which axes must go together: signatures, links, carriers, units and groups."""
