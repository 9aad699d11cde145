"""What is trained: the dialogue network, the weights of the robot, the encoders."""
