"""A scene in a browser, live: viser's threads leave notes on a desk, the thread that owns the scene works them off."""
