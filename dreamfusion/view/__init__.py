"""Show a scene live in a browser: viser's threads post to a mailbox that the scene's thread reads."""
