"""What pytest wants at the top: the plugin that tests plugins (tests/plugin)."""

pytest_plugins = ["pytester"]
