"""The toolkit where it is installed: what comes with it, and how its commands are started from any folder."""
