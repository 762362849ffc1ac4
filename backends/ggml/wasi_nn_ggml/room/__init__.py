"""The engine room: one decode loop per model, in which all guests' texts meet."""
