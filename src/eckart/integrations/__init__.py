"""Other tools, each in its own file or folder and imported only when asked for."""
