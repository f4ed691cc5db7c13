"""The command `reverie`: puts the commands of `training`, `export` and `serving` under one name."""
