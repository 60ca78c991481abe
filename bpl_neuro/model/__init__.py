"""From text to mathematics: model files, equations, their derivatives and program text."""
